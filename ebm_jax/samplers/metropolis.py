"""The Metropolis test, shared by the kernels that leave exp(-E / T) exactly invariant."""

from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import distance, norm, select, wide_dtype
from ebm_jax.samplers.base import Info, State, is_finite, positions


def metropolis(
    rng_key: jax.Array, state: State, proposal: State, log_ratio: jax.Array
) -> tuple[State, Info]:
    """Move each chain to its proposal with probability min(1, exp(log_ratio)).

    A chain whose `log_ratio` [chains] is NaN stays. The uniform numbers are those that go with
    normal noise of the positions' shape for the same key (`random.uniform`).
    """
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    # XLA keeps the result of a logarithm; a bare uniform it would draw again for every entry of x.
    log_u = jnp.log(random.uniform(rng_key, state.chain, state.x, log_ratio.dtype))
    new: State = select(log_u < log_ratio, proposal, state)
    info = Info(
        acceptance=jnp.exp(jnp.minimum(log_ratio, 0)),
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(positions(new), positions(state)),
        is_finite=is_finite(state) & is_finite(proposal),
    )
    return new, info


def energy_difference(start: State, end: State, temperature: Any) -> jax.Array:
    """`(E(start) - E(end)) / T` of each chain, [chains], in float32 at least.

    Raises ValueError for a temperature that is neither a scalar nor [chains].
    """
    dtype = wide_dtype(start.energy.dtype)
    t = jnp.asarray(temperature, dtype)
    if t.shape not in ((), start.energy.shape):
        raise ValueError(
            f"expected temperature to be a scalar or one per chain, {start.energy.shape}, got "
            f"shape {t.shape}"
        )
    return (start.energy.astype(dtype) - end.energy) / t
