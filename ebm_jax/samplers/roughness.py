"""Roughness of an energy: jumps between positions that differ by a few units in the last place.

Metropolis kernels compare energies of neighboring points. Where an energy is computed in few
digits (a network in bfloat16), or oscillates below the step, its values carry noise that no step
size removes: acceptance has a ceiling below its target, warm-up shrinks the step without end, and
chains stand still while their acceptance looks right.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import PyTree, check_positions, norm, sum_over_dims, wide_dtype, widen
from ebm_jax.samplers.base import EnergyFn, energy_and_grad

# Up to a unit of the last place of bfloat16, 2^16 of float32's: an energy that rounds its input to
# bfloat16 does not notice smaller changes.
_ULPS = (4, 2**10, 2**16)
# Energies that jump by more than so many nats between neighboring floats decide the Metropolis test
# by noise.
MOST_ROUGHNESS = 0.3


class Roughness(NamedTuple):
    """Jumps of an energy near given positions, in nats.

    Attributes:
        nats: root mean square over the chains of `jumps` at the distance where it is largest, [].
            Smooth energies have some 1e-7 of their magnitude; above about 0.3 the Metropolis test
            is decided by noise.
        jumps: `E(x + d) - E(x) - d . (g(x) + g(x + d)) / 2` with g the gradient, [distances,
            chains]: what is left of a difference of energies once its slope has been taken off.
        distance: Euclidean norm of d, [distances, chains].
        energy: E(x), [chains].
    """

    nats: jax.Array
    jumps: jax.Array
    distance: jax.Array
    energy: jax.Array


def roughness(energy_fn: EnergyFn, x: PyTree, *, ulps: tuple[int, ...] = _ULPS) -> Roughness:
    """Measure how much an energy jumps between neighboring positions.

    Each entry of x moves by `ulps` units in the last place of its float32 value (of float64 where x
    is), with a random but fixed sign and size. Costs one gradient per distance and one more.

    Args:
        energy_fn: [chains, ...] -> [chains].
        x: positions such as samples of the energy, [chains, ...] or a pytree of such.
        ulps: distances, each in units in the last place.

    Returns:
        A `Roughness`; `float(roughness(energy_fn, x).nats)` is a number to be reported.

    Raises ValueError or TypeError for positions or energies that kernels refuse as well.
    """
    check_positions(x)
    x = jax.tree.map(jnp.asarray, x)
    energy, grad = energy_and_grad(energy_fn, x)
    jumps, distances = jumps_near(
        lambda near: energy_and_grad(energy_fn, near), x, energy, grad, ulps
    )
    nats = jnp.sqrt(jnp.mean(jnp.square(jumps), axis=1)).max()
    return Roughness(nats, jumps, distances, energy)


def jumps_near(
    energy_and_grad_fn: Callable[[PyTree], tuple[jax.Array, PyTree]],
    x: PyTree,
    energy: jax.Array,
    grad: PyTree,
    ulps: tuple[int, ...] = _ULPS,
) -> tuple[jax.Array, jax.Array]:
    """`Roughness.jumps` and `Roughness.distance` about x, whose energy and gradient are known."""
    start = widen(x)
    energy, grad = energy.astype(wide_dtype(energy.dtype)), widen(grad)
    # Always the same directions: the chains' first noise under a key of its own.
    index = jnp.arange(energy.shape[0])
    noise = random.normal(jax.random.key(0), index, start)

    def at(count: jax.Array) -> tuple[jax.Array, jax.Array]:
        near = jax.tree.map(lambda a, n, like: _moved(a, n, count, like.dtype), start, noise, x)
        step = jax.tree.map(jnp.subtract, widen(near), start)
        other, slope = energy_and_grad_fn(near)
        rise = jax.tree.map(lambda d, g, h: d * (g + h) / 2, step, grad, slope)
        return other.astype(energy.dtype) - energy - sum_over_dims(rise), norm(step)

    return jax.lax.map(at, jnp.asarray(ulps, jnp.float32))


def _moved(x: jax.Array, noise: jax.Array, count: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x with each entry moved by about `count` units in its last place, in type `dtype`."""
    # A unit of a half type is larger than most of the distances already.
    unit = jnp.maximum(count * jnp.finfo(x.dtype).eps, 2 * jnp.finfo(dtype).eps).astype(x.dtype)
    scale = jnp.maximum(jnp.abs(x), jnp.asarray(1e-3, x.dtype))
    return (x + unit * scale * noise).astype(dtype)
