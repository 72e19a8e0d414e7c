"""A run's directory: one config, its checkpoints, and what was made from them."""

import json
import os
import pathlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from ebm_jax import experiment, parallel, provenance
from ebm_jax.experiment import ConfigError, Experiment
from ebm_jax.progress import Progress
from ebm_jax.training.train_step import TrainState


def check_workdir(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> pathlib.Path:
    """The path of a workdir that a run of this config may use; nothing is written yet.

    Raises:
      ConfigError: a file of that name, a directory that cannot be written, or a run of another
        config in it (with the fields that differ).
    """
    if not os.fspath(workdir):
        raise ConfigError("workdir is empty: write a directory")
    path = pathlib.Path(workdir)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"workdir {path} is a file: write a directory")
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"workdir {path} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"workdir {path} cannot be written: {existing} is not yours to write in")
    check_config(path, config)
    return path


def describe_run(path: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the workdir if absent, and writes the resolved config and the versions to it.

    Raises:
      ConfigError: a directory that cannot be written after all.
    """
    if jax.process_index() == 0:
        try:
            path.mkdir(parents=True, exist_ok=True)
            provenance.write_json(path / "config.json", config.to_dict())
            provenance.write_json(path / "versions.json", provenance.versions())
        except OSError as error:
            raise ConfigError(f"workdir {path} cannot be written: {error.strerror}") from error
    return path


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where the workdir holds a run of a config that differs and matters."""
    try:
        saved = json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        return
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{workdir}/config.json cannot be read: {error}") from error
    if fields := experiment.differences(saved, config):
        raise ConfigError(
            f"{workdir} holds a run of another config; write another workdir, or these as they "
            f"were: {'; '.join(fields)}"
        )


class Trained(NamedTuple):
    """A trained model. parts: its run's. step: of the checkpoint. state: on the host."""

    parts: Experiment
    step: int
    state: TrainState


def load_trained(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Trained:
    """The newest intact checkpoint of a workdir.

    Raises:
      ConfigError: where nothing is trained there, or with another config.
    """
    path = pathlib.Path(workdir)
    if not (path / "checkpoints").is_dir():
        raise ConfigError(f"nothing is trained in {path}: run the same command with --mode=train")
    check_config(path, config)
    parts = experiment.build(config)
    with experiment.open_checkpoints(config, path) as checkpoints:
        found = checkpoints.restore_latest(experiment.init_state(config, parts))
    if found is None:
        raise ConfigError(f"{path} has no checkpoint yet: run the same command with --mode=train")
    return Trained(parts, *found)


def sample(
    config: ml_collections.ConfigDict,
    trained: Trained,
    num_samples: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """Samples from the EMA weights, in batches, on all devices of this process.

    Args:
      num_samples: how many; sample i depends on sampling.seed and i alone.
      progress: a `Progress` over num_samples, or None.
    Returns:
      NumPy array [num_samples, ...] in model units.
    """
    devices = jax.local_device_count()
    batch_size = -(-min(config.sampling.batch_size, num_samples) // devices) * devices
    sampler = parallel.make_sampler(trained.parts.objective, batch_size)
    key = experiment.run_keys(config)["sample"]
    batches = []
    for first in range(0, num_samples, batch_size):
        batches.append(np.asarray(sampler(key, trained.state.ema_params, first)))
        if progress is not None:
            progress.update(min(first + batch_size, num_samples))
    return np.concatenate(batches)[:num_samples]


def measured_on(
    config: ml_collections.ConfigDict, trained: Trained, num_samples: int
) -> dict[str, object]:
    """What a result says of itself: checkpoint, weights, sampler, number, data, seed, versions."""
    return {
        "checkpoint_step": trained.step,
        "weights": "EMA",
        "ema_decay": config.training.ema_decay,
        "objective": config.objective.to_dict(),
        "num_samples": num_samples,
        "sampling_seed": config.sampling.seed,
        "data": {"name": config.data.name, "trained_on": config.data.split},
        "versions": provenance.versions(),
    }
