"""Hamiltonian Monte Carlo."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers.base import EnergyFn, Kernel, State, energy_and_grad, init_state
from ebm_jax.samplers.metropolis import metropolis, per_chain_temperature
from ebm_jax.samplers.positions import parameter, spread, sum_over_dims


def hmc(
    energy_fn: EnergyFn,
    step_size: Any,
    num_leapfrog_steps: int,
    *,
    mass: Any = 1.0,
    temperature: Any = 1.0,
) -> Kernel:
    """HMC with a fixed number of leapfrog steps; leaves exp(-E / T) exactly invariant.

    Momenta p ~ N(0, M) afresh in every step, then L leapfrog steps of `H = E(x) / T + p M^-1 p / 2`
    with time step e, accepted with probability min(1, exp(H - H')) (Duane et al. 1987; Neal 2011).
    L gradients per step.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: the time step e > 0; scalar, [chains], or of x's rank ([1, ...] is one per
            dimension). Stable below 2 / sqrt(largest curvature of E / T, in units of M).
        num_leapfrog_steps: L, a Python int >= 1.
        mass: diagonal of M, > 0; shapes as `step_size`. Good is 1 / variance of each dimension.
        temperature: T > 0; scalar or [chains].

    Raises ValueError where a number is out of range or has a shape that could be read in two ways.
    """
    n = num_leapfrog_steps
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"num_leapfrog_steps is {n}: give a Python int of at least 1")
    step = Partial(
        _hmc_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        num_leapfrog_steps=int(n),
        mass=parameter(mass, "mass"),
        temperature=parameter(temperature, "temperature"),
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _hmc_step(rng_key, state, *, energy_fn, step_size, num_leapfrog_steps, mass, temperature):
    noise = random.normal(rng_key, state.chain, state.x)
    m = spread(mass, state.x, "mass")
    momentum = jax.tree.map(lambda xi, m: jnp.sqrt(m) * xi, noise, m)
    proposal, new_momentum = leapfrog(
        energy_fn, state, momentum, step_size, num_leapfrog_steps, mass, temperature
    )

    def kinetic(p):
        return sum_over_dims(jax.tree.map(lambda p, m: p * p / (2 * m), p, m))

    t = per_chain_temperature(temperature, state.energy)
    log_ratio = (state.energy - proposal.energy) / t + kinetic(momentum) - kinetic(new_momentum)
    return metropolis(rng_key, state, proposal, log_ratio)


def leapfrog(
    energy_fn: EnergyFn,
    state: State,
    momentum: Any,
    step_size: Any,
    num_steps: int,
    mass: Any = 1.0,
    temperature: Any = 1.0,
) -> tuple[State, Any]:
    """`num_steps` leapfrog steps of `H = E(x) / T + p M^-1 p / 2`; shapes as in `hmc`.

    Starts from the gradient in `state` and costs `num_steps` gradients. Returns the state at the
    end, energy and gradient included, and the momentum there. Exactly reversible under a change of
    the momentum's sign, up to rounding.
    """
    e, m, t = (
        spread(value, state.x, name)
        for value, name in ((step_size, "step_size"), (mass, "mass"), (temperature, "temperature"))
    )

    def drift(x, p):
        return jax.tree.map(lambda x, p, e, m: x + e / m * p, x, p, e, m)

    def kick(p, grad, fraction):
        return jax.tree.map(lambda p, g, e, t: p - fraction * e / t * g, p, grad, e, t)

    def full_step(_, phase):
        x, p = phase
        x = drift(x, p)
        return x, kick(p, energy_and_grad(energy_fn, x)[1], 1.0)

    phase = state.x, kick(momentum, state.grad, 0.5)
    x, p = jax.lax.fori_loop(0, num_steps - 1, full_step, phase)
    x = drift(x, p)
    energy, grad = energy_and_grad(energy_fn, x)
    return State(x, energy, grad, state.chain), kick(p, grad, 0.5)
