"""The list of leaves kept inside every checkpoint: names, shapes, types and checksums.

A checkpoint library notices a missing file, but hands back flipped bytes without a word, and its
message about a network of another shape is a page long. The manifest answers both: it says exactly
which arrays a checkpoint holds before any of them is read, and what each must contain afterwards.

A leaf's name is its path in the tree, `params/conv_0/kernel`. Containers without leaves (an empty
tuple, None) hold no data and have no entry; they come from the template at restore.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

FORMAT = 1


class LeafSpec(NamedTuple):
    """Shape and type of one leaf; prints as `float32[3,3,1,24]`."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def leaf_specs(tree: Any) -> dict[str, LeafSpec]:
    """Returns {name: LeafSpec} of a tree of arrays, `jax.ShapeDtypeStruct`s or Python numbers."""
    return {name: _spec(name, leaf) for name, leaf in _named_leaves(tree).items()}


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Returns {name: NumPy array} of a tree of arrays or Python numbers.

    Raises:
      TypeError: for a leaf that is no array of numbers (a typed PRNG key, an object).
    """
    leaves = _named_leaves(tree)
    for name, leaf in leaves.items():
        _spec(name, leaf)  # raises for what cannot be stored
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def first_non_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the first floating or complex array with a NaN or an infinity."""
    for name, array in arrays.items():
        if jax.numpy.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            return name
    return None


def build(
    step: int, arrays: Mapping[str, np.ndarray], *, pinned: bool, config: Any = None
) -> dict[str, Any]:
    """Returns the manifest of a checkpoint as a dict for JSON, with a checksum of its own."""
    leaves = [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "crc32": _crc32(array),
        }
        for name, array in arrays.items()
    ]
    body = {"format": FORMAT, "step": step, "pinned": pinned, "config": config, "leaves": leaves}
    return body | {"crc32": _crc32_of_json(body)}


def intact(manifest: Any) -> bool:
    """Whether a manifest read from disk is complete and unchanged."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return False
    body = {key: value for key, value in manifest.items() if key != "crc32"}
    return manifest.get("crc32") == _crc32_of_json(body)


def stored_specs(manifest: Mapping[str, Any]) -> dict[str, LeafSpec]:
    """Returns {name: LeafSpec} as the checkpoint holds them."""
    return {
        leaf["name"]: LeafSpec(tuple(leaf["shape"]), leaf["dtype"]) for leaf in manifest["leaves"]
    }


def first_difference(stored: Mapping[str, LeafSpec], wanted: Mapping[str, LeafSpec]) -> str | None:
    """Says where a checkpoint and a template first differ, or None if they fit each other."""
    for name, spec in wanted.items():
        if name not in stored:
            return f"{name} ({spec}) is wanted and is not in it"
        if stored[name] != spec:
            return f"{name} is {stored[name]} in it and {spec} is wanted"
    for name, spec in stored.items():
        if name not in wanted:
            return f"{name} ({spec}) is in it and is not wanted"
    return None


def first_damaged(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the first array that is not what was saved, by shape, type or CRC-32."""
    for leaf in manifest["leaves"]:
        array = arrays.get(leaf["name"])
        if array is None:
            continue  # not read: whether all are there that are wanted is `first_difference`'s
        if list(array.shape) != leaf["shape"]:
            return leaf["name"]
        if array.dtype.name != leaf["dtype"] or _crc32(array) != leaf["crc32"]:
            return leaf["name"]
    return None


def _named_leaves(tree: Any) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "value"
        if name in named:
            raise ValueError(f"two leaves are both called {name}: avoid '/' in dictionary keys")
        named[name] = leaf
    return named


def _spec(name: str, leaf: Any) -> LeafSpec:
    like = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)  # a template has no values
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name} is a PRNG key: store jax.random.key_data(key), or the seed")
    dtype = like.dtype
    if dtype.hasobject or dtype.kind in "SUmM" or dtype.names is not None:
        raise TypeError(f"{name} is a {type(leaf).__name__}: a checkpoint holds arrays of numbers")
    return LeafSpec(like.shape, dtype.name)


def _crc32(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes in C order (little-endian on every platform JAX runs on)."""
    return zlib.crc32(array.ravel().view(np.uint8).data)


def _crc32_of_json(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
