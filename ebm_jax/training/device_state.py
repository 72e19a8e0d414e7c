"""Training states on devices and back on the host.

All of a state is the same on every device, but for `method_state.sharded`, whose leaves are split
over the devices along their first axis. On the host they are whole, so that a checkpoint does not
depend on the number of devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.training.state import TrainState


def pmap_train_step(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """The train step on [local_devices, ...] states and batches; the state is donated."""
    step = functools.partial(train_step, axis_name=parallel.AXIS)
    return parallel.on_each_device(step, donate_argnums=0)


def check_shards(state: TrainState, parts: int = 1) -> None:
    """Raises ValueError unless the devices, and the parts of a batch on each, divide all shards.

    parts: microbatches on a device.
    """
    devices = jax.device_count()
    for leaf in jax.tree.leaves(state.method_state.sharded):
        if len(leaf) % devices:
            raise ValueError(
                f"method.buffer_shards: expected a multiple of the {devices} devices, got "
                f"{len(leaf)}: run on a divisor of that, or use a new workdir"
            )
        if len(leaf) // devices % parts:
            raise ValueError(
                f"compute.microbatch: expected at most {len(leaf) // devices} parts of a batch, or "
                f"a divisor of that, as method.buffer_shards has so many on a device, got {parts}"
            )


def to_devices(state: TrainState) -> TrainState:
    """A host state on this process's devices: leaves [local_devices, ...].

    Raises:
      ValueError: as `check_shards`.
    """
    check_shards(state)
    sharded = state.method_state.sharded
    replicated = parallel.replicate(_with_sharded(state, ()))
    devices, local = jax.device_count(), jax.local_device_count()

    def local_part(leaf: np.ndarray) -> np.ndarray:
        split = np.asarray(leaf).reshape(devices, len(leaf) // devices, *leaf.shape[1:])
        return split[jax.process_index() * local :][:local]

    if not jax.tree.leaves(sharded):
        return replicated
    parts = jax.tree.map(local_part, sharded)
    return _with_sharded(replicated, parallel.on_each_device(lambda shard: shard)(parts))


def to_host(state: TrainState) -> TrainState:
    """The state on the host, for a checkpoint: one copy of what is replicated, all shards whole."""
    sharded = state.method_state.sharded
    host = jax.device_get(parallel.first_replica(_with_sharded(state, ())))
    if jax.tree.leaves(sharded):
        sharded = jax.tree.map(lambda leaf: np.concatenate(parallel.local_shards(leaf)), sharded)
        if jax.process_count() > 1:
            sharded = jax.tree.map(np.concatenate, multihost_utils.process_allgather(sharded))
    return _with_sharded(host, sharded)


def _with_sharded(state: TrainState, sharded: Any) -> TrainState:
    return state._replace(method_state=state.method_state._replace(sharded=sharded))
