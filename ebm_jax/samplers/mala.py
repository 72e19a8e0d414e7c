"""Metropolis-adjusted Langevin algorithm."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import PyTree, parameter, spread, sum_over_dims, widen
from ebm_jax.samplers.base import EnergyFn, Info, Kernel, State, init_state, move_to, positions
from ebm_jax.samplers.langevin import clip_gradient, langevin_update
from ebm_jax.samplers.metropolis import energy_difference, metropolis


def mala(
    energy_fn: EnergyFn, step_size: Any, *, temperature: Any = 1.0, max_grad: Any = None
) -> Kernel:
    """MALA: a Langevin proposal and a Metropolis test; leaves exp(-E / T) exactly invariant.

    Proposal `x' = x - h grad E(x) + sqrt(2 h T) xi`, accepted with probability min(1, r),
    `r = exp(-(E(x') - E(x)) / T) q(x | x') / q(x' | x)` with q the proposal's density (Roberts and
    Tweedie 1996). One gradient per step. With one step size per dimension the proposal is
    preconditioned by that diagonal, and the test accounts for it.

    Where the energy is steep over less than a step, no long proposal is accepted and a chain stands
    still. With `max_grad` the gradient of the proposal is clipped (MALTA of the same paper), which
    the test accounts for as well: the distribution is the same, and chains walk down.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: h > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension). In d
            dimensions of scale s, about `s^2 d^(-1/3)`; best at an acceptance near 0.57.
        temperature: T > 0; scalar or [chains].
        max_grad: clip every element of the gradient to [-max_grad, max_grad] in the proposal;
            scalar or [chains]; None for no clipping. At sqrt(2 T / h) a move by the gradient is as
            long as one of the noise.

    Raises ValueError where a number is out of range or has an ambiguous shape.
    """
    step = Partial(
        _mala_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        temperature=parameter(temperature, "temperature"),
        max_grad=None if max_grad is None else parameter(max_grad, "max_grad"),
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _mala_step(
    rng_key: jax.Array,
    state: State,
    *,
    energy_fn: EnergyFn,
    step_size: PyTree,
    temperature: PyTree,
    max_grad: PyTree,
) -> tuple[State, Info]:
    x = positions(state)
    noise = random.normal(rng_key, state.chain, x)
    grad = clip_gradient(widen(state.grad), max_grad)
    x = langevin_update(x, grad, noise, step_size, temperature)
    proposal: State = move_to(energy_fn, state, x)
    log_ratio = mala_log_ratio(state, proposal, noise, step_size, temperature, max_grad)
    return metropolis(rng_key, state, proposal, log_ratio)


def mala_log_ratio(
    state: State,
    proposal: State,
    noise: PyTree,
    step_size: Any,
    temperature: Any,
    max_grad: Any,
) -> jax.Array:
    """Log of the Metropolis ratio of a Langevin proposal made with `noise`, [chains].

    `(E - E') / T + log q(x | x') - log q(x' | x)`. The noise that leads back from x' to x is
    `-xi + c (g + g')` with `c = sqrt(h / 2T)` and g, g' the two gradients, clipped, so the log of
    the proposals' ratio is `sum of c xi (g + g') - c^2 (g + g')^2 / 2`: no difference of large
    squares.
    """
    x = positions(state)
    h = spread(step_size, x, "step_size")
    t = spread(temperature, x, "temperature")

    def one(g0: Any, g1: Any, xi: Any, h: jax.Array, t: jax.Array) -> jax.Array:
        drift = jnp.sqrt(h / (2 * t)) * (g0 + g1)
        return drift * (xi - drift / 2)

    grads = (clip_gradient(widen(at.grad), max_grad) for at in (state, proposal))
    terms = jax.tree.map(one, *grads, noise, h, t)
    return energy_difference(state, proposal, temperature) + sum_over_dims(terms)
