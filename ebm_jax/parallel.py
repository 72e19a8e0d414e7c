"""Many devices: the only place that knows how a state and a batch lie on them.

The train step is pmapped over all devices of all processes. Everything in the state is the same on
each device, but for a replay buffer, of which each has a shard of its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax.objectives.base import Objective, ObjectiveState

AXIS = "batch"


# All with one axis name: it is part of where an array lies, and a state that the train step finds
# elsewhere than it left it would be compiled for again.
_on_each_device = functools.partial(jax.pmap, axis_name=AXIS)


def pmap_train_step(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """The train step on [local_devices, ...] states and batches; the state is donated."""
    return _on_each_device(functools.partial(train_step, axis_name=AXIS), donate_argnums=0)


def replicate(tree: Any) -> Any:
    """A host tree on every local device: leaves [local_devices, ...]."""
    return _on_each_device(lambda leaf, _: leaf, in_axes=(None, 0))(
        tree, np.zeros(jax.local_device_count())
    )


def first_replica(tree: Any) -> Any:
    """The copy on the first local device, as arrays of that device."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.reshape(leaf.shape[1:]), tree)


def split_state(state: Any) -> Any:
    """A host state, as `join_state` makes it, on this process's devices: [local_devices, ...]."""
    buffer = _buffer(state)
    replicated = replicate(_with_buffer(state, ()))
    if not jax.tree.leaves(buffer):
        return replicated
    stored = jax.tree.leaves(buffer)[0].shape[0]
    if stored != jax.device_count():
        raise ValueError(
            f"the replay buffer has {stored} shards for {jax.device_count()} devices: "
            f"run on {stored} devices, or in a new workdir"
        )
    start = jax.process_index() * jax.local_device_count()
    local = jax.tree.map(lambda leaf: leaf[start : start + jax.local_device_count()], buffer)
    return _with_buffer(replicated, _on_each_device(lambda shard: shard)(local))


def join_state(state: Any) -> Any:
    """The state on the host, for a checkpoint.

    One copy of what is the same everywhere; a replay buffer's shards of all devices of all
    processes along a leading axis [devices, ...].
    """
    buffer = _buffer(state)
    host = jax.device_get(first_replica(_with_buffer(state, ())))
    if jax.tree.leaves(buffer):
        buffer = jax.device_get(jax.tree.map(_local_shards, buffer))
        if jax.process_count() > 1:
            buffer = jax.tree.map(
                lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
                multihost_utils.process_allgather(buffer),
            )
    return _with_buffer(host, buffer)


def init_shards(init: Callable[[jax.Array], Any], rng_key: jax.Array) -> Any:
    """The host state of a run: init(rng_key), each device's replay buffer from a key of its own."""
    state = init(rng_key)
    if not jax.tree.leaves(_buffer(state)):
        return state
    buffers = [
        _buffer(init(jax.random.fold_in(rng_key, device))) for device in range(jax.device_count())
    ]
    return _with_buffer(state, jax.tree.map(lambda *shards: np.stack(shards), *buffers))


def make_sampler(objective: Objective, batch_size: int) -> Callable[..., Any]:
    """sampler(rng_key, params, first_sample) -> x [batch_size, ...], on all local devices.

    Args:
      batch_size: divisible by the number of local devices. params: host or single-device arrays.
    Returns:
      The function; sample i of the set depends on (rng_key, first_sample + i) alone.
    Raises:
      ValueError: where the devices do not divide the batch.
    """
    num_devices = jax.local_device_count()
    if batch_size % num_devices:
        raise ValueError(f"{batch_size} samples do not divide among {num_devices} devices")
    per_device = batch_size // num_devices

    @functools.partial(_on_each_device, in_axes=(None, None, 0))
    def on_each(rng_key, params, first_sample):
        return objective.sample(rng_key, params, per_device, first_sample=first_sample)

    def sampler(rng_key: jax.Array, params: Any, first_sample: int = 0) -> jax.Array:
        x = on_each(rng_key, params, first_sample + per_device * np.arange(num_devices))
        return jnp.concatenate(list(_local_shards(x)))

    return sampler


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

    @functools.partial(_on_each_device, in_axes=(None, 0))
    def on_each(common, arrays):
        return fn(common, *arrays)

    def mapped(common: Any, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        number = len(arrays[0])
        rows = np.minimum(np.arange(batch_size), number - 1).reshape(num_devices, -1)
        found = on_each(common, tuple(np.asarray(a)[rows] for a in arrays))
        return {
            name: np.concatenate(list(_local_shards(values)))[:number]
            for name, values in found.items()
        }

    return mapped


def spread(x: Any) -> jax.Array:
    """Rows x [n, ...] over the local devices, for functions under jit; n divides among them."""
    mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))


def _local_shards(leaf: jax.Array) -> np.ndarray:
    """[local_devices, ...] on the host, in the order of the devices."""
    shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.stack([np.asarray(shard.data).reshape(leaf.shape[1:]) for shard in shards])


def _buffer(state: Any) -> Any:
    inner = state.objective_state
    return inner.replay_buffer if isinstance(inner, ObjectiveState) else ()


def _with_buffer(state: Any, buffer: Any) -> Any:
    if not isinstance(state.objective_state, ObjectiveState):
        return state
    inner = state.objective_state._replace(replay_buffer=buffer)
    return state._replace(objective_state=inner)
