"""A constant of its own for each noise level, beside any network of levels."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

_START = 0.5 * math.log(2 * math.pi)  # of a standard normal, per value


class LevelConstants(nn.Module):
    """E(x, t) = base(x, t) + d c_t, d the number of values of x.

    For energies whose constants mean something: a network whose head has no bias, or one for all
    levels, cannot hold them. c_t starts as that of a standard normal, log(2 pi) / 2; the factor d
    lets it move as fast as the normalizing constant of d values does.

    Its parameters are {'base': those of the network, 'per_value': c [num_levels]}.

    Fields:
      base: the network. num_levels: T; conditions are levels t, int [] or [batch].
    """

    base: nn.Module
    num_levels: int
    has_level_constants = True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of the network."""
        return self.base.input_shape

    @property
    def spectral_norm_mode(self) -> Callable[[tuple[str, ...]], str | None] | None:
        """That of the network; None where it has none."""
        mode = getattr(self.base, "spectral_norm_mode", None)
        return mode and (lambda path: mode(path[1:]) if path[0] == "base" else None)

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Energies [batch] of x [batch, ...]."""
        constants = self.param("per_value", nn.initializers.constant(_START), (self.num_levels,))
        return self.base(x, condition) + math.prod(x.shape[1:]) * jnp.take(constants, condition)
