"""What the modes that train have in common: updates that are kept on the way."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ebm_jax import data, parallel
from ebm_jax.data import Dataset
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.training import device_state
from ebm_jax.training.divergence import check
from ebm_jax.training.state import TrainState

_CHUNK = 50  # updates between two looks at the metrics

StepFn = Callable[[Any, Any], tuple[Any, Any]]  # on states and batches [local_devices, ...]


def load_state(kept: ResumableWork, state: TrainState) -> TrainState:
    """The state that `train` kept, or the given one, of the same structure; counts its updates."""
    if (saved := kept.load("state")) is None:
        return state
    found = jax.tree.unflatten(
        jax.tree.structure(state), [saved[f"leaf_{i}"] for i in range(len(saved))]
    )
    kept.skip(int(found.step))
    return found


def train(
    kept: ResumableWork,
    step_fn: StepFn,
    batch: Callable[[int], dict[str, np.ndarray]],
    state: TrainState,
    num_steps: int,
    *,
    what: str,
    shown: tuple[str, ...] = ("loss",),
) -> TrainState:
    """The host state after num_steps updates in all, from a host state on; kept on the way.

    Args:
      step_fn: see `device_state.pmap_train_step`. batch: the global step -> its local batch.
      what: is trained, for the error. shown: scalar metrics beside the bar.
    Raises:
      ValueError: where training diverges.
    """
    if int(state.step) >= num_steps:
        return state
    on_devices = device_state.to_devices(state)
    for first in range(int(state.step), num_steps, _CHUNK):
        stop, metrics = min(first + _CHUNK, num_steps), {}
        for step in range(first, stop):
            on_devices, metrics = step_fn(on_devices, batch(step))
            jax.block_until_ready(metrics)  # on CPU two steps in flight can starve each other
        values = jax.device_get(parallel.first_replica(metrics))
        if (wrong := check(values)) is not None:
            raise ValueError(f"{what} diverged at step {stop}: {wrong}")
        state = device_state.to_host(on_devices)
        kept.save_state("state", _numbered(state))
        kept.advance(stop - first, {name: float(values[name]) for name in shown})
    kept.save("state", _numbered(state))
    return state


def local_batch(
    dataset: Dataset, step: int, *, seed: int, batch_size: int
) -> dict[str, np.ndarray]:
    """This process's part of the global batch of one step."""
    return data.local_batch(
        dataset,
        step,
        seed=seed,
        global_batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        local_devices=jax.local_device_count(),
    )


def _numbered(state: TrainState) -> dict[str, np.ndarray]:
    return {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
