"""A run's directory: one config, its checkpoints, and what was made from them."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from ebm_jax import data, experiment, parallel
from ebm_jax.experiment import ConfigError, Experiment
from ebm_jax.io import files, plotting
from ebm_jax.io.progress import Progress


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
            files.write_json(path / "config.json", config.to_dict())
            files.write_json(path / "versions.json", files.versions())
        except OSError as error:
            raise ConfigError(f"workdir {path} cannot be written: {error.strerror}") from error
    return path


def check_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, *, judging: bool = False
) -> None:
    """Raises ConfigError where the workdir holds a run of a config that differs and matters.

    judging: the run is read and not gone on with.
    """
    try:
        saved = json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        return
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{workdir}/config.json cannot be read: {error}") from error
    if fields := differences(saved, config, judging=judging):
        raise ConfigError(
            f"{workdir} holds a run of another config; write another workdir, or these as they "
            f"were: {'; '.join(fields)}"
        )


# Sections of a config that make a run what it is, and their fields that a resumed run may change:
# where and how often it writes, and how it samples.
_MATTER = ("seed", "data.", "model.", "objective.", "optimizer.", "training.")
_FREE = (
    "data.data_dir", "data.held_out_split", "objective.sampling_",
    "training.log_every", "training.sample_every", "training.checkpoint_every",
    "training.keep_checkpoints", "training.pin_every", "training.max_abs_energy",
)  # fmt: skip


def differences(
    saved: Mapping[str, Any], config: ml_collections.ConfigDict, *, judging: bool = False
) -> list[str]:
    """'field: saved -> new' for every field that matters and differs from a saved config.

    training.num_steps may grow, unless the learning rate's schedule depends on it. To judge what
    was trained, how it was trained does not matter, but for the EMA's decay, which results name.
    """
    old, new = (_flat(json.loads(json.dumps(c))) for c in (dict(saved), config.to_dict()))
    free = _FREE
    if new.get("optimizer.schedule") == "constant":
        free = (*free, "training.num_steps")
    if judging:
        of_training = {k for k in old | new if k.startswith(("optimizer.", "training."))}
        free = (*free, *(of_training - {"training.ema_decay"}))
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name.startswith(_MATTER) and not name.startswith(free)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class Trained(NamedTuple):
    """A trained model. parts: its run's. step: of the checkpoint. params: EMA, on the host."""

    parts: Experiment
    step: int
    params: Any


def load_trained(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Trained:
    """The newest intact checkpoint of a workdir, or those of `ensemble.checkpoints` as one.

    Reads the EMA weights alone: how the run was trained, and on how many devices, does not enter.

    Raises:
      ConfigError: where nothing is trained there, or with another config, or not at these steps.
    """
    path = pathlib.Path(workdir)
    if not (path / "checkpoints").is_dir():
        raise ConfigError(f"nothing is trained in {path}: run the same command with --mode=train")
    check_config(path, config, judging=True)
    parts = experiment.build(config)
    template = experiment.params_template(config, parts)
    with experiment.open_checkpoints(config, path) as checkpoints:
        if steps := tuple(config.ensemble.checkpoints):
            members = [checkpoints.restore(step, template, part="ema_params") for step in steps]
            parts = experiment.make_ensemble(config, parts, len(members))
            together = {f"member_{i}": params for i, params in enumerate(members)}
            return Trained(parts, max(steps), together)
        found = checkpoints.restore_latest(template, part="ema_params")
    if found is None:
        raise ConfigError(f"{path} has no checkpoint yet: run the same command with --mode=train")
    return Trained(parts, *found)


def load_trained_on_images(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, mode: str
) -> Trained:
    """`load_trained`, for a mode that knows images alone.

    Raises:
      ConfigError: as `load_trained`, and for data that are no images.
    """
    trained = load_trained(config, workdir)
    if len(trained.parts.dataset.example_shape) != 3:
        raise ConfigError(
            f"--mode={mode} is for images and {trained.parts.dataset.name} has points of the "
            "plane: write --mode=evaluate, which draws and measures their density"
        )
    return trained


def made_from(config: ml_collections.ConfigDict, trained: Trained, mode: str) -> dict[str, object]:
    """What the results of a mode depend on: parts of another such set are of no use."""
    return {
        "checkpoint_step": trained.step,
        "mode": mode,
        "config": {
            name: config[name].to_dict()
            for name in ("data", "model", "objective", "sampling", "ensemble", mode)
        },
        "versions": files.versions(),
    }


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
        batches.append(np.asarray(sampler(key, trained.params, first)))
        if progress is not None:
            progress.update(min(first + batch_size, num_samples))
    return np.concatenate(batches)[:num_samples]


def some_examples(
    config: ml_collections.ConfigDict, dataset: data.Dataset, number: int
) -> np.ndarray:
    """Examples of a split in model units: dequantised as in training, not mirrored.

    Returns:
      float32 [number or all that there are, ...], drawn by sampling.seed.
    """
    unflipped = config.copy_and_resolve_references()
    unflipped.data.random_flip = False
    number = min(number, dataset.num_examples)
    chosen = data.batch_indices(dataset.num_examples, number, 0, config.sampling.seed)
    keys = data.example_keys(jax.random.key(config.sampling.seed), np.asarray(chosen))
    preprocess = experiment.make_preprocess(unflipped, dataset)
    return np.asarray(preprocess(keys, dataset.images[chosen]), np.float32)


def write_result(
    config: ml_collections.ConfigDict,
    trained: Trained,
    directory: str | os.PathLike,
    mode: str,
    *,
    num_examples: int,
    figures: Mapping[str, Any],
    drawings: Mapping[str, np.ndarray],
    lines: Sequence[str] = (),
) -> None:
    """Writes `<mode>/<mode>.json` and `<mode>/<name>.png`, and prints the lines; on process 0.

    Args:
      num_examples: what `measured_on` calls num_samples. figures: of the JSON, with `measured_on`
        and the config's section of this mode in front.
      drawings: uint8 [height, width, 1 or 3] by name.
    """
    if jax.process_index() != 0:
        return
    out = pathlib.Path(directory) / mode
    described = {
        "mode": mode,
        "measured_on": measured_on(config, trained, num_examples),
        "settings": config[mode].to_dict(),
    }
    for name, drawing in drawings.items():
        plotting.save_image(out / f"{name}.png", drawing)
    files.write_json(out / f"{mode}.json", {**described, **figures})
    written = ", ".join(f"{name}.png" for name in drawings)
    print(*lines, f"{out}/{mode}.json; {written}", sep="\n", flush=True)


def measured_on(
    config: ml_collections.ConfigDict, trained: Trained, num_samples: int
) -> dict[str, object]:
    """What a result says of itself: checkpoint, weights, sampler, number, data, seed, versions."""
    return {
        "checkpoint_step": trained.step,
        "ensemble": config.ensemble.to_dict() if config.ensemble.checkpoints else None,
        "weights": "EMA",
        "ema_decay": config.training.ema_decay,
        "objective": config.objective.to_dict(),
        "num_samples": num_samples,
        "sampling_seed": config.sampling.seed,
        "data": {"name": config.data.name, "trained_on": config.data.split},
        "versions": files.versions(),
    }
