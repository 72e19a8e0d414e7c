"""Hamiltonian Monte Carlo."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import (
    PyTree,
    check_count,
    parameter,
    rows,
    spread,
    sum_over_dims,
)
from ebm_jax.samplers.base import (
    EnergyFn,
    Kernel,
    State,
    energy_and_grad,
    init_state,
    move_to,
    positions,
    round_like,
)
from ebm_jax.samplers.metropolis import energy_difference, metropolis

_DIVERGENCE = 1000.0  # nats, as in Stan


class HMCInfo(NamedTuple):
    """`Info` of a Hamiltonian step, with what shows whether its trajectory is accurate.

    Attributes:
        acceptance, energy, grad_norm, displacement, is_finite, kept: as in `Info`.
        energy_error: `H' - H` over the trajectory, in nats, [chains]; infinite where H' is NaN. A
            block holds the mean over its steps. In equilibrium its mean is positive and small, and
            about half its variance.
        is_divergent: whether `energy_error` is above 1,000 nats, bool [chains]: the step size is
            unstable there. A block: whether any of its steps was.
    """

    acceptance: jax.Array
    energy: jax.Array
    grad_norm: jax.Array
    displacement: jax.Array
    is_finite: jax.Array
    energy_error: jax.Array
    is_divergent: jax.Array
    kept: PyTree = None


def hmc(
    energy_fn: EnergyFn,
    step_size: Any,
    num_leapfrog_steps: int,
    *,
    mass: Any = 1.0,
    temperature: Any = 1.0,
    jitter: Any = 0.2,
) -> Kernel:
    """HMC with a fixed number of leapfrog steps; leaves exp(-E / T) exactly invariant.

    Momenta p ~ N(0, M) afresh in every step, then L leapfrog steps of `H = E(x) / T + p M^-1 p / 2`
    with time step e, accepted with probability min(1, exp(H - H')) (Duane et al. 1987; Neal 2011).
    L gradients per step. In each step each chain's e is `step_size (1 + jitter U)`, U uniform in
    (-1, 1): with one length for all, trajectories of a near-Gaussian target return to their start
    where they last a period, at a step size of 2 sin(pi / L) standard deviations (Mackenze 1989;
    Neal 2011, section 5.4.2). Acceptance changes in second order of the jitter alone.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: the mean time step e > 0; scalar, [chains], or of x's rank ([1, ...] is one per
            dimension). Stable while `e (1 + jitter)` is below 2 / sqrt(largest curvature of E / T,
            in units of M).
        num_leapfrog_steps: L, a Python int >= 1.
        mass: diagonal of M, > 0; shapes as `step_size`. Good is 1 / variance of each dimension.
        temperature: T > 0; scalar or [chains].
        jitter: in [0, 1), the largest relative change of the time step; scalar or [chains]. A
            single leapfrog step (L = 1) has no period, and its time step is not changed.

    Returns:
        A Kernel with `State` and `HMCInfo`.

    Raises ValueError where a number is out of range or has an ambiguous shape.
    """
    check_count(num_leapfrog_steps, "num_leapfrog_steps")
    step = Partial(
        _hmc_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        num_leapfrog_steps=int(num_leapfrog_steps),
        mass=parameter(mass, "mass"),
        temperature=parameter(temperature, "temperature"),
        jitter=parameter(jitter, "jitter", strict=False, below=1.0),
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _hmc_step(
    rng_key: jax.Array,
    state: State,
    *,
    energy_fn: EnergyFn,
    step_size: PyTree,
    num_leapfrog_steps: int,
    mass: PyTree,
    temperature: PyTree,
    jitter: jax.Array,
) -> tuple[State, HMCInfo]:
    x = positions(state)
    noise = random.normal(rng_key, state.chain, x)
    m = spread(mass, x, "mass")
    momentum = jax.tree.map(lambda xi, m: jnp.sqrt(m) * xi, noise, m)
    if num_leapfrog_steps > 1:
        step_size = _jittered(rng_key, state.chain, x, step_size, jitter)
    proposal, new_momentum = leapfrog(
        energy_fn, state, momentum, step_size, num_leapfrog_steps, mass, temperature
    )

    def kinetic(p: PyTree) -> jax.Array:
        return sum_over_dims(jax.tree.map(lambda p, m: p * p / (2 * m), p, m))

    log_ratio = (
        energy_difference(state, proposal, temperature) + kinetic(momentum) - kinetic(new_momentum)
    )
    new, info = metropolis(rng_key, state, proposal, log_ratio)
    energy_error = jnp.where(jnp.isnan(log_ratio), jnp.inf, -log_ratio)
    return new, HMCInfo(
        *info[:5], energy_error=energy_error, is_divergent=energy_error > _DIVERGENCE
    )


def _jittered(
    rng_key: jax.Array, chain: jax.Array, x: PyTree, step_size: PyTree, jitter: jax.Array
) -> PyTree:
    """The step sizes of this step: each chain's times `1 + jitter U`, U in (-1, 1)."""
    dtype = jax.tree.leaves(x)[0].dtype
    # Of another key than the noise's: a function of it and the chain's index, as all draws are.
    u = random.uniform(random.fold_in(rng_key, 1), chain, (), dtype)
    factor = 1 + jitter.astype(dtype) * (2 * u - 1)
    return jax.tree.map(
        lambda e, leaf: e * rows(factor, leaf), spread(step_size, x, "step_size"), x
    )


def leapfrog(
    energy_fn: EnergyFn,
    state: State,
    momentum: PyTree,
    step_size: Any,
    num_steps: int,
    mass: Any,
    temperature: Any,
) -> tuple[State, PyTree]:
    """`num_steps` leapfrog steps of `H = E(x) / T + p M^-1 p / 2`; shapes as in `hmc`.

    Starts from the gradient in `state` and costs `num_steps` gradients. Returns the state at the
    end, energy and gradient included, and the momentum there. Exactly reversible under a change of
    the momentum's sign, up to rounding.
    """
    start = positions(state)
    e, m, t = (
        spread(value, start, name)
        for value, name in ((step_size, "step_size"), (mass, "mass"), (temperature, "temperature"))
    )

    def drift(x: PyTree, p: PyTree) -> PyTree:
        return jax.tree.map(lambda x, p, e, m: x + e / m * p, x, p, e, m)

    def kick(p: PyTree, grad: PyTree, fraction: float) -> PyTree:
        return jax.tree.map(lambda p, g, e, t: p - fraction * e / t * g, p, grad, e, t)

    def full_step(_: Any, phase: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        x, p = phase
        x = drift(x, p)
        return x, kick(p, energy_and_grad(energy_fn, round_like(x, state.x)[0])[1], 1.0)

    phase = start, kick(momentum, state.grad, 0.5)
    phase: tuple[PyTree, PyTree] = jax.lax.fori_loop(0, num_steps - 1, full_step, phase)
    x, p = phase
    end: State = move_to(energy_fn, state, drift(x, p))
    return end, kick(p, end.grad, 0.5)
