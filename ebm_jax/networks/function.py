"""An energy that is a plain function of (params, x), as a network that every method can train."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

GROUP = "energy"


class FunctionNetwork(nn.Module):
    """E(x) = energy_fn(params, x), or energy_fn(params, x, condition), for any pure function.

    Its parameters are {'energy': those of the function}, so that the trained ones are
    `state.ema_params["energy"]`.

    Fields:
      energy_fn: (params, x [batch, *input_shape]) -> [batch]; a third argument is given where there
        is a condition: a level or label, int [] or [batch].
      init_params: (rng_key) -> params, any pytree of arrays. Parameters that exist already, of a
        run elsewhere, are `lambda rng_key: params`.
      input_shape: of one x, without the batch.
      num_classes: how many labels the function takes; None where it takes none.
    """

    energy_fn: Callable[..., jax.Array]
    init_params: Callable[[jax.Array], Any]
    input_shape: tuple[int, ...]
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies [batch] of x [batch, *input_shape].

        Raises:
          ValueError: for a function that returns something else than one energy per x.
        """
        params = self.param(GROUP, self.init_params)
        inputs = (params, x) if condition is None else (params, x, condition)
        energies = self.energy_fn(*inputs)
        # One x may meet many conditions: so an energy is prepared for a batch of levels.
        conditions = () if condition is None else jnp.shape(condition)[:1]
        expected = jnp.broadcast_shapes(x.shape[:1], conditions)
        if energies.shape != expected:
            raise ValueError(
                f"energy_fn: expected energies of shape {expected}, one for each x, got "
                f"{energies.shape}"
            )
        return energies
