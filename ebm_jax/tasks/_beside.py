"""A network that a mode trains beside the model, as the model was, to compare it with."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data, parallel
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import build
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.training import device_state
from ebm_jax.training.divergence import check
from ebm_jax.training.state import TrainState, init_train_state
from ebm_jax.training.train_step import make_train_step

_CHUNK = 50  # updates between two looks at the metrics


def train(
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
    leaves, tree = jax.tree.flatten(state)
    work.begin(name, num_steps)
    if (saved := kept.load("state")) is not None:
        found = [saved[f"leaf_{i}"] for i in range(len(leaves))]
        state = jax.tree.unflatten(tree, found)
        work.skip(int(state.step))
    step_fn = device_state.pmap_train_step(
        make_train_step(
            model,
            transformation,
            rng_key=run.key("train"),
            ema_decay=training.ema_decay,
            preprocess=run.preprocess(),
        )
    )
    on_devices = device_state.to_devices(state)
    for first in range(int(state.step), num_steps, _CHUNK):
        stop, metrics = min(first + _CHUNK, num_steps), {}
        for step in range(first, stop):
            batch = data.local_batch(
                run.dataset,
                step,
                seed=run.general.seed,
                global_batch_size=training.batch_size,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                local_devices=jax.local_device_count(),
            )
            on_devices, metrics = step_fn(on_devices, batch)
            jax.block_until_ready(metrics)  # on CPU two steps in flight can starve each other
        values = jax.device_get(parallel.first_replica(metrics))
        if (wrong := check(values)) is not None:
            raise ValueError(f"the {name} diverged at step {stop}: {wrong}")
        state = device_state.to_host(on_devices)
        kept.save_state("state", _numbered(state))
        kept.advance(stop - first, {metric: float(values[metric]) for metric in shown})
    kept.save("state", _numbered(state))
    return state.ema_params


def _numbered(state: TrainState) -> dict[str, np.ndarray]:
    return {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
