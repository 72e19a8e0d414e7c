"""What the modes that train have in common: updates that are kept on the way."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data, parallel
from ebm_jax.data import Dataset
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import build
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.training import device_state
from ebm_jax.training.divergence import check
from ebm_jax.training.state import TrainState, init_train_state
from ebm_jax.training.train_step import make_train_step

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


def train_beside(
    trained: TrainedRun,
    work: ResumableWork,
    model: Any,
    *,
    name: str,
    piece: str,
    depends_on: Mapping[str, Any],
    num_steps: int,
    shown: Sequence[str],
    optimizer: Mapping[str, Any] | None = None,
) -> Any:
    """EMA parameters of a model after the run's batches, preprocessing, optimizer and key.

    Resumable.

    Args:
      model: has `init` and `loss` as methods have.
      name: of the network, in words. piece: of the work, a plain file name.
      depends_on: what the parameters depend on beside the run.
      num_steps: updates; 0: those of the run.
      shown: metrics beside the bar.
      optimizer: settings of the optimizer in place of the run's.
    Raises:
      ValueError: where training diverges.
    """
    run, training = trained.run, trained.run.config.training
    num_steps = num_steps or training.num_steps
    config = run.config.copy_and_resolve_references()
    config.training.num_steps = num_steps  # of the learning rate's schedule
    config.optimizer.update(dict(optimizer or {}))
    transformation = build.make_optimizer(config)
    labels = run.dataset.labels
    example_batch = {
        "image": jnp.zeros((1, *run.dataset.example_shape)),
        "label": jnp.zeros((1, *labels.shape[1:]), labels.dtype),
    }
    state = jax.device_get(
        jax.jit(lambda key: init_train_state(key, model, transformation, example_batch))(
            run.key("init")
        )
    )
    sections = ("seed", "data", "network", "optimizer", "compute")
    kept = work.piece(
        piece,
        {
            **depends_on,
            "num_steps": num_steps,
            "batch_size": training.batch_size,
            "ema_decay": training.ema_decay,
            "config": {name: config.to_dict()[name] for name in sections},
        },
    )
    work.begin(name, num_steps)
    step_fn = device_state.pmap_train_step(
        make_train_step(
            model,
            transformation,
            rng_key=run.key("train"),
            ema_decay=training.ema_decay,
            preprocess=run.preprocess(),
        )
    )
    batch = functools.partial(
        local_batch, run.dataset, seed=run.general.seed, batch_size=training.batch_size
    )
    start = load_state(kept, state)
    state = train(kept, step_fn, batch, start, num_steps, what=f"the {name}", shown=tuple(shown))
    return state.ema_params


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
