"""Positions of many chains: an array [chains, ...] or a pytree of such arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def check_positions(x: PyTree) -> int:
    """Return the number of chains of `x`, an array [chains, ...] or a pytree of such arrays.

    Raises TypeError for leaves that are not floating point or that mix float32 and float64, and
    ValueError where there is no common, non-empty leading chain axis.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
    if not leaves:
        raise ValueError("positions are an empty pytree: give an array [chains, ...]")
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"positions are {leaf.dtype}: cast them, x.astype(jnp.float32)")
        if leaf.ndim == 0:
            raise ValueError("a position has no chain axis: give [chains, ...], x[None] for one")
    if len({leaf.dtype for leaf in leaves}) > 1:
        found = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        raise TypeError(f"positions mix {found}: cast all leaves to one float type")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"leaves have {sorted(sizes)} chains: give all the same leading axis")
    (num_chains,) = sizes
    if num_chains == 0:
        raise ValueError("the chain axis is empty: give at least one chain, [1, ...]")
    return num_chains


def sum_over_dims(tree: PyTree) -> jax.Array:
    """Sum of all entries of each chain, [chains]."""
    sums = [jnp.sum(leaf.reshape(leaf.shape[0], -1), axis=1) for leaf in jax.tree.leaves(tree)]
    return sum(sums[1:], start=sums[0])


def norm(tree: PyTree) -> jax.Array:
    """Euclidean norm over all entries of each chain, [chains]."""
    return jnp.sqrt(sum_over_dims(jax.tree.map(jnp.square, tree)))


def distance(x: PyTree, y: PyTree) -> jax.Array:
    """Euclidean distance between the positions of each chain, [chains]."""
    return norm(jax.tree.map(jnp.subtract, x, y))


def select(accept: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` for the chains where `accept` [chains] is true, `old` for the others."""

    def one(a, b):
        return jnp.where(accept.reshape(accept.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)


def parameter(value: Any, name: str, *, minimum: float = 0.0, strict: bool = True) -> PyTree:
    """A sampler's numeric parameter as arrays, so that its value is data and never retraces.

    Raises ValueError where a concrete value is below `minimum` (or equal to it, if `strict`) or is
    not finite. Traced values are not checked.
    """

    def one(leaf):
        if not isinstance(leaf, jax.core.Tracer):
            host = np.asarray(leaf, dtype=np.float64)
            ok = np.isfinite(host) & ((host > minimum) if strict else (host >= minimum))
            if not ok.all():
                wanted = f"{'above' if strict else 'at least'} {minimum:g}"
                raise ValueError(f"{name} is {host[~ok].flat[0]:g}: give a finite value {wanted}")
        leaf = jnp.asarray(leaf)
        return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(float)

    return jax.tree.map(one, value)


def spread(value: PyTree, x: PyTree, name: str) -> PyTree:
    """`value` shaped and cast so that it broadcasts against every leaf of `x`.

    `value` is a scalar; one number per chain, [chains]; an array of the rank of x whose axes are 1
    or equal to those of x ([1, ...] is one number per dimension); or a pytree with x's structure
    of such. Raises ValueError for any other shape: a bare [dimensions] is never guessed.
    """
    structure = jax.tree.structure(x)
    if not jax.tree_util.treedef_is_leaf(structure) and jax.tree.structure(value) == structure:
        values = jax.tree.leaves(value)
    else:
        if not jax.tree_util.all_leaves([value]):
            raise ValueError(f"{name} is a pytree unlike the positions: give the same structure")
        values = [value] * structure.num_leaves

    def one(value, leaf):
        value = jnp.asarray(value, dtype=leaf.dtype)
        if value.ndim == 0:
            return value
        if value.shape == leaf.shape[:1]:
            return value.reshape(value.shape + (1,) * (leaf.ndim - 1))
        axes = zip(value.shape, leaf.shape, strict=False)
        if value.ndim == leaf.ndim and all(a in (1, b) for a, b in axes):
            return value
        raise ValueError(
            f"{name} has shape {value.shape} for positions {leaf.shape}: give a scalar, "
            f"({leaf.shape[0]},) per chain or {(1, *leaf.shape[1:])} per dimension"
        )

    leaves = jax.tree.leaves(x)
    return structure.unflatten(one(v, leaf) for v, leaf in zip(values, leaves, strict=True))
