"""Global indices of chains: which random numbers each chain of a fresh start uses.

A device's chains follow those of the devices before it, and a row of `jax.vmap` those of the rows
before it, so that chains that share a key never share their noise.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ebm_jax.samplers._trees import PyTree, is_traced


def device_axes(x: PyTree) -> tuple[str, ...]:
    """Names of the axes of `pmap` or `shard_map` over which `x` is split, in the mesh's order.

    Where no types track what varies (`pmap`, `shard_map(..., check_vma=False)`) these are all the
    axes of the surrounding mapping. Empty outside such a mapping.
    """
    axes = tuple(str(name) for name in jax.sharding.get_abstract_mesh().manual_axes)
    if not axes or not _varying(jax.lax.axis_index(axes)):
        return axes
    varying = frozenset[str]().union(*(_varying(leaf) for leaf in jax.tree.leaves(x)))
    return tuple(name for name in axes if name in varying)


def _varying(leaf: Any) -> frozenset[str]:
    """The mapped axes over which a value varies, as far as its type says so."""
    kind: Any = jax.typeof(leaf)
    return kind.manual_axis_type.varying


def chain_indices(x: PyTree, num_chains: int) -> jax.Array:
    """Indices of fresh chains, int32 [chains]: from 0, or from where this device's share begins."""
    chain = jnp.arange(num_chains, dtype=jnp.int32)
    axes = device_axes(x)
    return chain + jax.lax.axis_index(axes) * num_chains if axes else chain


def first_of_row(rng_key: jax.Array, x: PyTree, num_chains: int) -> jax.Array | int:
    """Index of the first chain of this row of `jax.vmap`; 0 where each row has a key of its own.

    Rows of positions that share a key must not share their noise. A `vmap` over other arguments,
    such as step sizes, keeps its rows on the same positions and the same noise.
    """
    leaves = jax.tree.leaves(x)
    if not any(is_traced(leaf) for leaf in leaves):
        return 0
    # The values do not matter, only what they depend on; they are dead code once traced.
    of_x = jnp.stack([jax.lax.stop_gradient(leaf).any() for leaf in leaves]).any()
    typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    return _row(jax.random.key_data(rng_key) if typed else rng_key, of_x) * num_chains


@custom_vmap
def _row(key_data: jax.Array, of_x: jax.Array) -> jax.Array:
    del key_data, of_x
    return jnp.int32(0)


@_row.def_vmap
def _number_rows(
    axis_size: int, is_batched: Sequence[bool], key_data: jax.Array, of_x: jax.Array
) -> tuple[jax.Array, bool]:
    key_is_batched, _ = is_batched  # at least one of them is
    if key_is_batched:  # each row has its own noise already; rows of an outer map may yet share it
        return _row(key_data.any(), of_x.any()), False
    outer = _row(key_data, of_x.any())
    return outer * axis_size + jnp.arange(axis_size, dtype=jnp.int32), True
