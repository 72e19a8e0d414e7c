"""The Metropolis test, shared by the kernels that leave exp(-E / T) exactly invariant."""

from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax.samplers import random
from ebm_jax.samplers.base import Info, State, is_finite
from ebm_jax.samplers.positions import distance, norm, select


def metropolis(
    rng_key: jax.Array, state: State, proposal: State, log_ratio: jax.Array
) -> tuple[State, Info]:
    """Move each chain to its proposal with probability min(1, exp(log_ratio)).

    A chain whose `log_ratio` [chains] is NaN stays. The uniform numbers are those that go with
    normal noise of the positions' shape for the same key (`random.uniform`).
    """
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    dtype = jnp.promote_types(log_ratio.dtype, jnp.float32)
    # XLA keeps the result of a logarithm; a bare uniform it would draw again for every entry of x.
    log_u = jnp.log(random.uniform(rng_key, state.chain, state.x, dtype))
    new = select(log_u < log_ratio, proposal, state)
    info = Info(
        acceptance=jnp.exp(jnp.minimum(log_ratio, 0)),
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(new.x, state.x),
        is_finite=is_finite(state) & is_finite(proposal),
    )
    return new, info


def per_chain_temperature(temperature: Any, energy: jax.Array) -> jax.Array:
    """The temperature as a scalar or [chains]: a Metropolis test needs one per chain.

    Raises ValueError for any other shape.
    """
    t = jnp.asarray(temperature, energy.dtype)
    if t.shape not in ((), energy.shape):
        raise ValueError(
            f"temperature has shape {t.shape}: give a scalar or one per chain, {energy.shape}"
        )
    return t
