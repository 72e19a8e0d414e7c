"""Underdamped Langevin dynamics by the BAOAB splitting."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import (
    PyTree,
    cast_like,
    parameter,
    spread,
    transpose,
    widen,
)
from ebm_jax.samplers.base import (
    EnergyFn,
    Info,
    Kernel,
    init_state,
    move_to,
    positions,
    untested_info,
)
from ebm_jax.samplers.langevin import noise_scale


class UnderdampedState(NamedTuple):
    """`State` with a momentum.

    Attributes:
        x, energy, grad, chain, remainder: as in `State`.
        momentum: shaped as `x`, float32 at least.
    """

    x: PyTree
    energy: jax.Array
    grad: PyTree
    chain: jax.Array
    momentum: PyTree
    remainder: PyTree = None


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
    drift, half a kick. No Metropolis test. The stationary distribution of the positions is exactly
    exp(-E / T) for quadratic energies; otherwise its error is of order dt^4 at high friction, else
    of dt^2. Momenta start at zero and forget it within about 1 / g of time. One gradient per step.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: dt > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension). Stable
            below 2 sqrt(M / largest curvature).
        friction: g > 0, in 1 / time; shapes as `step_size`.
        mass: diagonal of M, > 0; shapes as `step_size`.
        temperature: T >= 0; shapes as `step_size`.

    Raises ValueError where a number is out of range or has an ambiguous shape.
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


def _init(x: PyTree, *, energy_fn: EnergyFn) -> UnderdampedState:
    state = init_state(x, energy_fn=energy_fn)
    at_rest = jax.tree.map(jnp.zeros_like, positions(state))
    return UnderdampedState(*state[:4], momentum=at_rest, remainder=state.remainder)


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
    the new positions, `p - dt / 2 grad E(x)`, has been added. Half-precision values are updated in
    float32; the results have the types of `x` and `momentum`.
    """

    def one(
        x: jax.Array,
        p: jax.Array,
        g: jax.Array,
        xi: jax.Array,
        dt: jax.Array,
        friction: jax.Array,
        m: jax.Array,
        t: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        c = jnp.exp(-friction * dt)
        p = p - dt / 2 * g
        x = x + dt / (2 * m) * p
        p = c * p + noise_scale(-jnp.expm1(-2 * friction * dt) * t * m) * xi
        return x + dt / (2 * m) * p, p

    wide = widen(x)
    parameters = (
        spread(value, wide, name)
        for value, name in (
            (step_size, "step_size"),
            (friction, "friction"),
            (mass, "mass"),
            (temperature, "temperature"),
        )
    )
    pairs = jax.tree.map(one, wide, momentum, grad, noise, *parameters)
    new_x, new_momentum = transpose(pairs, x, 2)
    return cast_like(new_x, x), cast_like(new_momentum, momentum)


def _baoab_step(
    rng_key: jax.Array,
    state: UnderdampedState,
    *,
    energy_fn: EnergyFn,
    step_size: PyTree,
    friction: PyTree,
    mass: PyTree,
    temperature: PyTree,
) -> tuple[UnderdampedState, Info]:
    x = positions(state)
    noise = random.normal(rng_key, state.chain, x)
    x, p = baoab_update(
        x, state.momentum, state.grad, noise, step_size, friction, mass, temperature
    )
    new: UnderdampedState = move_to(energy_fn, state, x)
    dt = spread(step_size, x, "step_size")
    p = jax.tree.map(lambda p, g, dt: p - dt / 2 * g, p, new.grad, dt)
    new = new._replace(momentum=p)
    return new, untested_info(state, new)
