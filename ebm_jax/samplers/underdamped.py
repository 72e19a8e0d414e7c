"""Underdamped Langevin dynamics by the BAOAB splitting."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers.base import EnergyFn, Info, Kernel, energy_and_grad, init_state, is_finite
from ebm_jax.samplers.positions import PyTree, distance, norm, parameter, spread


class UnderdampedState(NamedTuple):
    """`State` with a momentum, shaped as `x`."""

    x: PyTree
    energy: jax.Array
    grad: PyTree
    chain: jax.Array
    momentum: PyTree


def underdamped_langevin(
    energy_fn: EnergyFn,
    step_size: Any,
    *,
    friction: Any = 1.0,
    mass: Any = 1.0,
    temperature: Any = 1.0,
) -> Kernel:
    """Underdamped Langevin, `dx = M^-1 p dt`, `dp = -grad E dt - g p dt + sqrt(2 g T M) dW`.

    BAOAB splitting (Leimkuhler and Matthews 2013): half a kick by the gradient, half a drift, the
    exact Ornstein-Uhlenbeck step `p <- c p + sqrt((1 - c^2) T M) xi`, `c = exp(-g dt)`, half a
    drift, half a kick. No Metropolis test. Positions have exactly the law exp(-E / T) for quadratic
    energies, and an error of order dt^4 at high friction, dt^2 otherwise. Momenta start at zero and
    forget it within about 1 / g of time. One gradient per step.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: dt > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension). Stable
            below 2 sqrt(M / largest curvature).
        friction: g > 0, in 1 / time; shapes as `step_size`.
        mass: diagonal of M, > 0; shapes as `step_size`.
        temperature: T >= 0; shapes as `step_size`.

    Raises ValueError where a number is out of range or has a shape that could be read in two ways.
    """
    step = Partial(
        _baoab_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        friction=parameter(friction, "friction"),
        mass=parameter(mass, "mass"),
        temperature=parameter(temperature, "temperature", strict=False),
    )
    return Kernel(Partial(_init, energy_fn=energy_fn), step)


def _init(x, *, energy_fn):
    state = init_state(x, energy_fn=energy_fn)
    return UnderdampedState(*state, momentum=jax.tree.map(jnp.zeros_like, state.x))


def baoab_update(
    x: PyTree,
    momentum: PyTree,
    grad: PyTree,
    noise: PyTree,
    step_size: Any,
    friction: Any = 1.0,
    mass: Any = 1.0,
    temperature: Any = 1.0,
) -> tuple[PyTree, PyTree]:
    """The BAOA part of one step with given standard normal noise: new positions and momenta.

    All of `x`, `momentum`, `grad` (of the energy at x) and `noise` have the positions' shape; the
    others as in `underdamped_langevin`. The step is complete once half a kick by the gradient at
    the new positions, `p - dt / 2 grad E(x)`, has been added.
    """

    def one(x, p, g, xi, dt, friction, m, t):
        c = jnp.exp(-friction * dt)
        p = p - dt / 2 * g
        x = x + dt / (2 * m) * p
        p = c * p + jnp.sqrt(-jnp.expm1(-2 * friction * dt) * t * m) * xi
        return x + dt / (2 * m) * p, p

    parameters = (
        spread(value, x, name)
        for value, name in (
            (step_size, "step_size"),
            (friction, "friction"),
            (mass, "mass"),
            (temperature, "temperature"),
        )
    )
    pairs = jax.tree.map(one, x, momentum, grad, noise, *parameters)
    return jax.tree.transpose(jax.tree.structure(x), jax.tree.structure((0, 0)), pairs)


def _baoab_step(rng_key, state, *, energy_fn, step_size, friction, mass, temperature):
    noise = random.normal(rng_key, state.chain, state.x)
    x, p = baoab_update(
        state.x, state.momentum, state.grad, noise, step_size, friction, mass, temperature
    )
    energy, grad = energy_and_grad(energy_fn, x)
    dt = spread(step_size, x, "step_size")
    p = jax.tree.map(lambda p, g, dt: p - dt / 2 * g, p, grad, dt)
    info = Info(
        acceptance=jnp.ones_like(state.energy),
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(x, state.x),
        is_finite=is_finite(state),
    )
    return UnderdampedState(x, energy, grad, state.chain, p), info
