"""Arrays over devices and processes: replicas, shards, functions of many examples, agreement.

Where several processes have to go the same way, process 0 decides and `tell` says what; where one
of them may fail alone, `all_or_none` ends all of them. Either is a collective: each process calls
it, in the same order.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AXIS = "batch"
_MESSAGE_BYTES = 1_000  # of an error that processes tell each other

# All with one axis name: it is part of where an array lies, and arrays that a function finds
# elsewhere than it left them would be compiled for again.
on_each_device = functools.partial(jax.pmap, axis_name=AXIS)
_copies = on_each_device(lambda leaf, _: leaf, in_axes=(None, 0))


def replicate(tree: Any) -> Any:
    """A host tree on every local device: leaves [local_devices, ...]."""
    if not jax.tree.leaves(tree):  # of which pmap over several processes makes an error
        return tree
    return _copies(tree, np.zeros(jax.local_device_count()))


def first_replica(tree: Any) -> Any:
    """The copy on the first local device, as arrays of that device."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.reshape(leaf.shape[1:]), tree)


def local_shards(leaf: jax.Array) -> np.ndarray:
    """[local_devices, ...] on the host, in the order of the devices."""
    shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])


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
    Calls in turn with one and the same object `common` put it on the devices once.
    """
    num_devices = jax.local_device_count()
    placed: list[tuple[Any, Any]] = []  # the last `common`, and the same on every device

    @on_each_device
    def on_each(common, arrays):
        return fn(common, *arrays)

    def mapped(common: Any, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        if not placed or placed[0][0] is not common:
            placed[:] = [(common, replicate(common))]
        number = len(arrays[0])
        rows = np.minimum(np.arange(batch_size), number - 1)
        rows = rows.reshape(num_devices, batch_size // num_devices)
        found = on_each(placed[0][1], tuple(np.asarray(a)[rows] for a in arrays))
        return {
            name: np.concatenate(local_shards(values))[:number] for name, values in found.items()
        }

    return mapped


def spread(x: Any) -> jax.Array:
    """Rows x [n, ...] over the devices of all processes, for functions under jit.

    n divides among the devices; every process has the same x, or the array itself.
    """
    return _place(x, jax.sharding.PartitionSpec(AXIS))


def everywhere(tree: Any) -> Any:
    """A host tree, the same on every process, on the devices of all of them, for use with `spread`.

    A function under jit that is given it again sends nothing to the devices.
    """
    return jax.tree.map(lambda leaf: _place(leaf, jax.sharding.PartitionSpec()), tree)


def whole(x: Any) -> np.ndarray:
    """An array of `spread` rows, or of what was computed from such, on every host."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def tell(value: Any) -> np.ndarray:
    """Process 0's value, a number or an array of one shape and type everywhere, on every process.

    Not of 64 bits: JAX keeps 32 of them.
    """
    value = np.asarray(value)
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(value).astype(value.dtype)


def tell_bytes(content: bytes | None) -> bytes | None:
    """Process 0's bytes, or its None, on every process, whatever the others have."""
    if jax.process_count() == 1:
        return content
    length = tell(np.int32(-1 if content is None else len(content))).item()
    if length < 0:
        return None
    if jax.process_index() != 0 or content is None:
        content = bytes(length)
    return tell(np.frombuffer(content, np.uint8)).tobytes()


def all_true(here: bool) -> bool:
    """Whether a condition holds on every process."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(here)))


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Ends every process where one fails inside, so that none waits for it in a collective.

    For what reads files and computes on the host: nothing inside may be a collective.

    Raises:
      ValueError: with the message of the process that failed, on those that did not.
    """
    try:
        yield
    except Exception as error:
        _failure_anywhere(str(error) or type(error).__name__)
        raise
    if (message := _failure_anywhere("")) is not None:
        raise ValueError(message)


def first_does(work: Callable[[], Any]) -> None:
    """Process 0 alone does something that may fail: looks at files, or writes them.

    Raises:
      ValueError: with its message, on the others where it fails there.
    """
    with all_or_none():
        if jax.process_index() == 0:
            work()


def _failure_anywhere(message: str) -> str | None:
    """The first process's message that is not empty; None where all are."""
    if jax.process_count() == 1:
        return None
    own = np.zeros(_MESSAGE_BYTES, np.uint8)
    content = message.encode(errors="replace")[:_MESSAGE_BYTES]
    own[: len(content)] = np.frombuffer(content, np.uint8)
    everyone = multihost_utils.process_allgather(own)
    failed = [row.tobytes().rstrip(b"\0") for row in everyone if row.any()]
    return failed[0].decode(errors="replace") if failed else None


def _place(x: Any, spec: jax.sharding.PartitionSpec) -> jax.Array:
    mesh = jax.sharding.Mesh(jax.devices(), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, spec)
    if jax.process_count() == 1 or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
