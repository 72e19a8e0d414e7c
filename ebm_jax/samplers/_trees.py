"""Trees of arrays with a leading chain axis: the positions of many chains, and what moves them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

PyTree = Any
AnyArray = jax.Array | np.ndarray  # of a device, or of the host

_FLOATS = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)


def is_traced(leaf: Any) -> bool:
    """Whether a value is only known inside a transformation."""
    return isinstance(leaf, Tracer)


def flatten(tree: PyTree) -> tuple[list[Any], Any]:
    """Leaves and structure of a tree."""
    return jax.tree.flatten(tree)


def leaves_of(tree: PyTree) -> list[jax.Array]:
    """The arrays of a tree."""
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def leaf_names(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their place in it: `a`, `a.b`, `0`; a leaf alone is `x`."""
    paths: Any = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "x": leaf for path, leaf in paths
    }


def check_positions(x: PyTree) -> int:
    """Return the number of chains of `x`, an array [chains, ...] or a pytree of such arrays.

    Raises TypeError for leaves that are not of one type among bfloat16, float16, float32 and
    float64, and ValueError where there is no common, non-empty leading chain axis.
    """
    leaves = leaves_of(x)
    if not leaves:
        raise ValueError("expected positions [chains, ...], got an empty pytree")
    for leaf in leaves:
        if leaf.dtype not in _FLOATS:
            raise TypeError(
                f"expected floating-point positions, got {leaf.dtype}: x.astype(jnp.float32)"
            )
        if leaf.ndim == 0:
            raise ValueError("expected positions [chains, ...], got no chain axis: x[None] for one")
    if len({leaf.dtype for leaf in leaves}) > 1:
        found = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        raise TypeError(f"expected positions of one float type, got {found}: cast all leaves")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"expected one number of chains in all leaves, got {sorted(sizes)}")
    (num_chains,) = sizes
    if num_chains == 0:
        raise ValueError("expected at least one chain, [1, ...], got an empty chain axis")
    return num_chains


def wide_dtype(dtype: DTypeLike) -> np.dtype:
    """The type in which values of `dtype` are summed and updated: float32 or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(tree: PyTree) -> PyTree:
    """The tree with half-precision leaves as float32; float32 and float64 stay as they are."""
    arrays = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(lambda a: a.astype(wide_dtype(a.dtype)), arrays)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with the types of `like`'s leaves."""
    return jax.tree.map(lambda a, b: a.astype(jnp.result_type(b)), tree, like)


def sum_over_dims(tree: PyTree) -> jax.Array:
    """Sum of all entries of each chain, [chains], in float32 at least."""
    leaves = leaves_of(widen(tree))
    sums = [jnp.sum(leaf.reshape(leaf.shape[0], -1), axis=1) for leaf in leaves]
    return sum(sums[1:], start=sums[0])


@jax.custom_jvp
def safe_sqrt(square: jax.Array) -> jax.Array:
    """Square root with derivative 0 instead of infinity at 0."""
    return jnp.sqrt(square)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    root = safe_sqrt(primals[0])
    slope = 0.5 / jnp.where(root > 0, root, jnp.inf)
    return root, slope * tangents[0]


def norm(tree: PyTree) -> jax.Array:
    """Euclidean norm over all entries of each chain.

    Args:
        tree: an array [chains, ...] or a pytree of such.

    Returns:
        [chains], in float32 at least; its derivative at 0 is 0.
    """
    return safe_sqrt(sum_over_dims(jax.tree.map(jnp.square, widen(tree))))


def distance(x: PyTree, y: PyTree) -> jax.Array:
    """Euclidean distance between the positions of each chain, [chains]."""
    return norm(jax.tree.map(jnp.subtract, widen(x), y))


def rows(values: jax.Array, like: jax.Array) -> jax.Array:
    """One value per chain, [chains], shaped so that it broadcasts against `like` [chains, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def select(accept: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` for the chains where `accept` [chains] is true, `old` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(rows(accept, a), a, b), new, old)


def transpose(pairs: PyTree, like: PyTree, count: int) -> Sequence[PyTree]:
    """A tree of tuples of `count`, structured as `like`, as a tuple of trees."""
    return jax.tree.transpose(
        jax.tree.structure(like), jax.tree.structure(tuple(range(count))), pairs
    )


def check_count(value: Any, name: str) -> None:
    """Raise ValueError unless `value` is a Python int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"expected {name} to be a Python int >= 1, got {value}")


def parameter(
    value: PyTree, name: str, *, minimum: float = 0.0, strict: bool = True, below: float = np.inf
) -> PyTree:
    """A sampler's numeric parameter as arrays, so that its value is data and never retraces.

    Raises ValueError where a value is below `minimum` (or equal to it, if `strict`), is not below
    `below`, or is not finite.
    Values that are at hand are checked, those that are traced or still being computed are not:
    making a kernel never waits for a device.
    """

    def one(leaf: Any) -> jax.Array:
        host = _at_hand(leaf)
        if host is not None:
            ok = ((host > minimum) if strict else (host >= minimum)) & (host < below)
            if not ok.all():
                wanted = f"{'>' if strict else '>='} {minimum:g}"
                wanted += f" and < {below:g}" if below < np.inf else ""
                raise ValueError(f"expected a finite {name} {wanted}, got {host[~ok].flat[0]:g}")
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)

    return jax.tree.map(one, value)


def _at_hand(leaf: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where reading it would wait for a device."""
    if is_traced(leaf):
        return None
    if isinstance(leaf, jax.Array):
        array: Any = leaf  # `is_ready` is a method of concrete arrays alone
        if not array.is_fully_addressable or not array.is_ready():
            return None
        with jax.transfer_guard("allow"):
            return np.asarray(array, dtype=np.float64)
    return np.asarray(leaf, dtype=np.float64)


def spread(value: PyTree, x: PyTree, name: str) -> PyTree:
    """`value` shaped and cast so that it broadcasts against every leaf of `x`.

    `value` is a scalar; one number per chain, [chains]; an array of the rank of x whose axes are 1
    or equal to those of x ([1, ...] is one number per dimension); or a pytree with x's structure
    of such. Raises ValueError for any other shape: a bare [dimensions] is ambiguous.
    """
    structure: Any = jax.tree.structure(x)
    if not jax.tree_util.treedef_is_leaf(structure) and jax.tree.structure(value) == structure:
        values: list[Any] = jax.tree.leaves(value)
    else:
        if not jax.tree_util.all_leaves([value]):
            raise ValueError(f"expected {name} with the positions' structure, got another pytree")
        values = [value] * structure.num_leaves

    def one(value: Any, leaf: jax.Array) -> jax.Array:
        array = jnp.asarray(value, dtype=leaf.dtype)
        if array.ndim == 0:
            return array
        if array.shape == leaf.shape[:1]:
            return rows(array, leaf)
        axes = zip(array.shape, leaf.shape, strict=False)
        if array.ndim == leaf.ndim and all(a in (1, b) for a, b in axes):
            return array
        raise ValueError(
            f"expected {name} of shape (), ({leaf.shape[0]},) per chain or "
            f"{(1, *leaf.shape[1:])} per dimension, got {array.shape} for positions {leaf.shape}"
        )

    leaves = jax.tree.leaves(x)
    return structure.unflatten(one(v, leaf) for v, leaf in zip(values, leaves, strict=True))
