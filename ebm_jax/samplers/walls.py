"""Walls: chains in a box that bounce off its faces."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from ebm_jax.samplers._trees import PyTree, distance, is_traced, spread
from ebm_jax.samplers.base import EnergyFn, Kernel, positions, round_like


class MakeInnerKernel(Protocol):
    """The kernel that moves between the walls."""

    def __call__(self, energy_fn: EnergyFn, /) -> Kernel:
        """A kernel for an energy that is defined everywhere."""
        ...


def fold_into_box(u: PyTree, low: Any, high: Any) -> PyTree:
    """The point of a box that any `u` stands for, where its faces are mirrors.

    Along each axis it runs up and down between `low` and `high` with period `2 (high - low)`, and
    is `u` itself inside of the box; continuous, and of slope 1 or -1.

    Args:
        u: [chains, ...] or a pytree of such.
        low, high: of the box; scalars, or of the rank of `u` ([1, ...] is one per dimension).
            Either may be infinite: a single wall, or none.
    """
    return jax.tree.map(lambda u, a, b: _fold(u, a, b)[0], u, *_faces(low, high, u))


def reflecting_walls(
    energy_fn: EnergyFn, make_kernel: MakeInnerKernel, low: Any, high: Any
) -> Kernel:
    """A kernel for exp(-E) on a box, which bounces off the walls rather than being refused there.

    The inner kernel moves on `E(fold(u))`, with `fold_into_box`, and after each step its chains are
    folded into the box. Proposals that are symmetric about the walls (HMC, MALA and Langevin with
    diagonal masses and step sizes) leave exp(-E) on the box exactly as invariant as without walls,
    at their cost. A wall is a kink of the folded energy: where E is steep there, trajectories lose
    accuracy and some acceptance. Where a chain is folded, gradient and momentum change their signs
    along that axis. To go with tempering, walls belong inside of its `make_kernel`.

    Args:
        energy_fn: [chains, ...] -> [chains]; evaluated inside of the box alone.
        make_kernel: such as `lambda energy_fn: hmc(energy_fn, 0.1, 10)`.
        low, high: of the box, as in `fold_into_box`.

    Returns:
        A Kernel with the inner one's State and Info; `displacement` is the distance in the box.

    Raises ValueError unless `low < high`, and by `init` for chains that start outside.
    """
    _check_faces(low, high)
    settings = {"energy_fn": energy_fn, "make_kernel": make_kernel, "low": low, "high": high}
    return Kernel(Partial(_init, **settings), Partial(_step, **settings))


def _faces(low: Any, high: Any, x: PyTree) -> tuple[PyTree, PyTree]:
    return spread(low, x, "low"), spread(high, x, "high")


def _check_faces(low: Any, high: Any) -> None:
    if any(is_traced(leaf) for leaf in jax.tree.leaves((low, high))):
        return
    lows, highs = jax.tree.leaves(low), jax.tree.leaves(high)
    pairs = zip(lows, highs, strict=True) if len(lows) == len(highs) else ((low, high),)
    for a, b in pairs:
        if not np.all(np.asarray(a) < np.asarray(b)):
            raise ValueError(f"expected walls low < high, got {a} and {b}")


def _fold(u: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """The point of the box, and the slope there: 1, or -1 where the axis is mirrored."""
    has_low, has_high = jnp.isfinite(low), jnp.isfinite(high)
    bottom, top = jnp.where(has_low, low, 0), jnp.where(has_high, high, 1)
    width = jnp.where(has_low & has_high, top - bottom, 1)
    from_low = jnp.where(
        has_high, jnp.mod(u - bottom + width, 2 * width) - width, u - bottom
    )  # how far above the lower wall, or its mirror image below
    up, down = bottom + jnp.abs(from_low), top - jnp.abs(top - u)
    x = jnp.where(has_low, up, jnp.where(has_high, down, u))
    is_mirrored = jnp.where(has_low, from_low < 0, has_high & (u > top))
    return jnp.clip(x, low, high), jnp.where(is_mirrored, -1, 1).astype(u.dtype)


def _folded(x: PyTree, *, energy_fn: EnergyFn, low: Any, high: Any) -> Array:
    return energy_fn(fold_into_box(x, low, high))


def _inner(energy_fn: EnergyFn, make_kernel: MakeInnerKernel, low: Any, high: Any) -> Kernel:
    return make_kernel(Partial(_folded, energy_fn=energy_fn, low=low, high=high))


def _init(
    x: PyTree, *, energy_fn: EnergyFn, make_kernel: MakeInnerKernel, low: Any, high: Any
) -> Any:
    for leaf, a, b in zip(
        jax.tree.leaves(x), *map(jax.tree.leaves, _faces(low, high, x)), strict=True
    ):
        if any(is_traced(value) for value in (leaf, a, b)):
            continue
        is_outside = np.asarray((leaf < a) | (leaf > b))
        if is_outside.any():
            worst = np.asarray(leaf)[is_outside].flat[0]
            raise ValueError(
                f"expected chains that start between the walls {np.min(a):g} and {np.max(b):g}, "
                f"got one at {worst:g}: fold_into_box(x, low, high)"
            )
    state = _inner(energy_fn, make_kernel, low, high).init(x)
    if hasattr(state, "replicas"):
        raise ValueError(
            "expected a kernel of single chains inside of the walls, got tempering: put the walls "
            "into its make_kernel"
        )
    return state


def _step(
    rng_key: Array,
    state: Any,
    *,
    energy_fn: EnergyFn,
    make_kernel: MakeInnerKernel,
    low: Any,
    high: Any,
) -> tuple[Any, Any]:
    new, info = _inner(energy_fn, make_kernel, low, high).step(rng_key, state)
    u = positions(new)
    faces = _faces(low, high, u)
    x = jax.tree.map(lambda *a: _fold(*a)[0], u, *faces)
    slope = jax.tree.map(lambda *a: _fold(*a)[1], u, *faces)
    rounded, remainder = round_like(x, state.x)

    def mirrored(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a, s: a * s.astype(a.dtype), tree, slope)

    changes: dict[str, Any] = {"x": rounded, "grad": mirrored(new.grad), "remainder": remainder}
    if hasattr(new, "momentum"):
        changes["momentum"] = mirrored(new.momentum)
    new = new._replace(**changes)
    return new, info._replace(displacement=distance(x, positions(state)))
