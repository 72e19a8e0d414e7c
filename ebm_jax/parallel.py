"""Arrays over devices: replicas, shards, and functions of many examples on all local devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

AXIS = "batch"

# All with one axis name: it is part of where an array lies, and arrays that a function finds
# elsewhere than it left them would be compiled for again.
on_each_device = functools.partial(jax.pmap, axis_name=AXIS)


def replicate(tree: Any) -> Any:
    """A host tree on every local device: leaves [local_devices, ...]."""
    return on_each_device(lambda leaf, _: leaf, in_axes=(None, 0))(
        tree, np.zeros(jax.local_device_count())
    )


def first_replica(tree: Any) -> Any:
    """The copy on the first local device, as arrays of that device."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.reshape(leaf.shape[1:]), tree)


def local_shards(leaf: jax.Array) -> np.ndarray:
    """[local_devices, ...] on the host, in the order of the devices."""
    shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.stack([np.asarray(shard.data).reshape(leaf.shape[1:]) for shard in shards])


def round_up(number: int, devices: int | None = None) -> int:
    """The least multiple of the local devices that is not below a number."""
    devices = devices or jax.local_device_count()
    return -(-number // devices) * devices


def check_divides(name: str, number: int, devices: int) -> None:
    """Raises ValueError with the nearest number that does, unless the devices divide a number."""
    if number % devices:
        nearest = max(1, round(number / devices)) * devices
        raise ValueError(
            f"{name}: expected a multiple of the {devices} devices, such as {nearest}, got {number}"
        )


def map_examples(
    fn: Callable[..., dict[str, jax.Array]], batch_size: int
) -> Callable[..., dict[str, np.ndarray]]:
    """mapped(common, *arrays [n, ...]) -> {name: [n, ...]}, on all local devices.

    Args:
      fn: pure, (common, *arrays [m, ...]) -> {name: [m, ...]}, each example on its own.
      batch_size: examples at once, divisible by the number of local devices. A call may have fewer,
        and compiles nothing anew: its last example is repeated and what it gives is dropped.
    """
    num_devices = jax.local_device_count()

    @functools.partial(on_each_device, in_axes=(None, 0))
    def on_each(common, arrays):
        return fn(common, *arrays)

    def mapped(common: Any, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        number = len(arrays[0])
        rows = np.minimum(np.arange(batch_size), number - 1).reshape(num_devices, -1)
        found = on_each(common, tuple(np.asarray(a)[rows] for a in arrays))
        return {
            name: np.concatenate(list(local_shards(values)))[:number]
            for name, values in found.items()
        }

    return mapped


def spread(x: Any) -> jax.Array:
    """Rows x [n, ...] over the local devices, for functions under jit; n divides among them."""
    mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))
