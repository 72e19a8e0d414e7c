"""Langevin dynamics without a Metropolis test: overdamped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers.base import (
    EnergyFn,
    Info,
    Kernel,
    State,
    energy_and_grad,
    init_state,
    is_finite,
)
from ebm_jax.samplers.positions import PyTree, distance, norm, parameter, spread


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
        The new positions, shaped as `x`. Raises ValueError where `step_size` or `temperature` has
        a shape that could be read in two ways.
    """
    h = spread(step_size, x, "step_size")
    t = spread(temperature, x, "temperature")
    return jax.tree.map(
        lambda x, g, n, h, t: x - h * g + jnp.sqrt(2 * h * t) * n, x, grad, noise, h, t
    )


def clip_gradient(grad: PyTree, max_grad: Any) -> PyTree:
    """Clip every element of `grad` to [-max_grad, max_grad]; None leaves it as it is."""
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

    Its stationary law tends to `exp(-E / T)` as h goes to 0; on `x^2 / 2v` its variance is
    `T v / (1 - h / 2v)`. A run of K steps whose caller reads the positions alone costs K gradients.

    Args:
        energy_fn: [chains, ...] -> [chains].
        step_size: h > 0; scalar, [chains], or of x's rank ([1, ...] is one per dimension).
        temperature: T >= 0; shapes as `step_size`.
        max_grad: clip every element of the gradient to [-max_grad, max_grad] in the update
            (`State.grad` keeps the unclipped one); None for no clip.
        project: applied to the new positions, such as `lambda x: jnp.clip(x, 0, 1)`.

    Raises ValueError where a number is out of range or has a shape that could be read in two ways.
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


def _langevin_step(rng_key, state, *, energy_fn, step_size, temperature, max_grad, project):
    noise = random.normal(rng_key, state.chain, state.x)
    grad = clip_gradient(state.grad, max_grad)
    x = langevin_update(state.x, grad, noise, step_size, temperature)
    if project is not None:
        x = project(x)
    energy, new_grad = energy_and_grad(energy_fn, x)
    info = Info(
        acceptance=jnp.ones_like(state.energy),
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(x, state.x),
        is_finite=is_finite(state),
    )
    return State(x, energy, new_grad, state.chain), info
