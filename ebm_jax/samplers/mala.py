"""Metropolis-adjusted Langevin algorithm."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers.base import EnergyFn, Kernel, State, energy_and_grad, init_state
from ebm_jax.samplers.langevin import langevin_update
from ebm_jax.samplers.metropolis import metropolis, per_chain_temperature
from ebm_jax.samplers.positions import parameter, spread, sum_over_dims


def mala(energy_fn: EnergyFn, step_size: Any, *, temperature: Any = 1.0) -> Kernel:
    """MALA: a Langevin proposal and a Metropolis test; leaves exp(-E / T) exactly invariant.

    Proposal `x' = x - h grad E(x) + sqrt(2 h T) xi`, accepted with probability min(1, r),
    `r = exp(-(E(x') - E(x)) / T) q(x | x') / q(x' | x)` with q the proposal's density (Roberts and
    Tweedie 1996). One gradient per step. With one step size per dimension the proposal is
    preconditioned by that diagonal, and the test accounts for it.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: h > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension). In d
            dimensions of scale s, about `s^2 d^(-1/3)`; best at an acceptance near 0.57.
        temperature: T > 0; scalar or [chains].

    Raises ValueError where a number is out of range or has a shape that could be read in two ways.
    """
    step = Partial(
        _mala_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        temperature=parameter(temperature, "temperature"),
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _mala_step(rng_key, state, *, energy_fn, step_size, temperature):
    noise = random.normal(rng_key, state.chain, state.x)
    x = langevin_update(state.x, state.grad, noise, step_size, temperature)
    proposal = State(x, *energy_and_grad(energy_fn, x), state.chain)
    return metropolis(
        rng_key, state, proposal, mala_log_ratio(state, proposal, noise, step_size, temperature)
    )


def mala_log_ratio(
    state: State, proposal: State, noise: Any, step_size: Any, temperature: Any = 1.0
) -> jax.Array:
    """Log of the Metropolis ratio of a Langevin proposal made with `noise`, [chains].

    `(E - E') / T + log q(x | x') - log q(x' | x)`. The noise that leads back from x' to x is
    `-xi + c (g + g')` with `c = sqrt(h / 2T)` and g, g' the two gradients, so the log of the
    proposals' ratio is `sum of c xi (g + g') - c^2 (g + g')^2 / 2`: no difference of large squares.
    """
    h = spread(step_size, state.x, "step_size")
    t = spread(temperature, state.x, "temperature")

    def one(g0, g1, xi, h, t):
        drift = jnp.sqrt(h / (2 * t)) * (g0 + g1)
        return drift * (xi - drift / 2)

    terms = jax.tree.map(one, state.grad, proposal.grad, noise, h, t)
    t = per_chain_temperature(temperature, state.energy)
    return (state.energy - proposal.energy) / t + sum_over_dims(terms)
