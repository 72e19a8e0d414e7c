"""Langevin dynamics without a Metropolis test: overdamped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import PyTree, cast_like, parameter, spread, widen
from ebm_jax.samplers.base import (
    EnergyFn,
    Info,
    Kernel,
    State,
    init_state,
    move_to,
    positions,
    untested_info,
)


def langevin_update(
    x: PyTree, grad: PyTree, noise: PyTree, step_size: Any, temperature: Any = 1.0
) -> PyTree:
    """One unadjusted Langevin update with given noise, `x - h grad E(x) + sqrt(2 h T) noise`.

    Args:
        x: positions [chains, ...] or a pytree of such.
        grad: gradient of the energy at `x`, shaped as `x`.
        noise: standard normal, shaped as `x`.
        step_size: h; scalar, [chains], or of x's rank ([1, ...] is one per dimension).
        temperature: T >= 0; shapes as `step_size`.

    Returns:
        The new positions, shaped as `x`; half-precision ones are computed in float32 and rounded
        once. Raises ValueError where `step_size` or `temperature` has an ambiguous shape.
    """
    wide = widen(x)
    h = spread(step_size, wide, "step_size")
    t = spread(temperature, wide, "temperature")
    new = jax.tree.map(
        lambda x, g, n, h, t: x - h * g + noise_scale(2 * h * t) * n,
        wide,
        grad,
        noise,
        h,
        t,
    )
    return cast_like(new, x)


def noise_scale(variance: jax.Array) -> jax.Array:
    """Square root of the noise's variance, whose derivative is 0 where there is no noise."""
    is_still = variance == 0
    return jnp.where(is_still, 0, jnp.sqrt(jnp.where(is_still, jnp.inf, variance)))


def clip_gradient(grad: PyTree, max_grad: Any) -> PyTree:
    """Each element of the gradient clipped to [-max_grad, max_grad]; as it is for None."""
    if max_grad is None:
        return grad
    bound = spread(max_grad, grad, "max_grad")
    return jax.tree.map(lambda g, b: jnp.clip(g, -b, b), grad, bound)


def langevin(
    energy_fn: EnergyFn,
    step_size: Any,
    *,
    temperature: Any = 1.0,
    max_grad: Any = None,
    project: Callable[[PyTree], PyTree] | None = None,
) -> Kernel:
    """Unadjusted Langevin: `x' = project(x - h clip(grad E(x)) + sqrt(2 h T) xi)`, xi ~ N(0, I).

    Its stationary distribution tends to `exp(-E / T)` as h goes to 0; on `x^2 / 2v` its variance is
    `T v / (1 - h / 2v)`. A run of K steps whose caller reads the positions alone costs K gradients.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: h > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension).
        temperature: T >= 0; shapes as `step_size`.
        max_grad: clip every element of the gradient to [-max_grad, max_grad] in the update
            (`State.grad` keeps the unclipped one); None for no clip.
        project: applied to the new positions, such as `lambda x: jnp.clip(x, 0, 1)`.

    Raises ValueError where a number is out of range or has an ambiguous shape.
    """
    step = Partial(
        _langevin_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        temperature=parameter(temperature, "temperature", strict=False),
        max_grad=None if max_grad is None else parameter(max_grad, "max_grad"),
        project=project,
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _langevin_step(
    rng_key: jax.Array,
    state: State,
    *,
    energy_fn: EnergyFn,
    step_size: PyTree,
    temperature: PyTree,
    max_grad: PyTree,
    project: Callable[[PyTree], PyTree] | None,
) -> tuple[State, Info]:
    x = positions(state)
    noise = random.normal(rng_key, state.chain, x)
    grad = clip_gradient(widen(state.grad), max_grad)
    x = langevin_update(x, grad, noise, step_size, temperature)
    if project is not None:
        x = project(x)
    new = move_to(energy_fn, state, x)
    return new, untested_info(state, new)
