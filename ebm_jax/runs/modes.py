"""The harness of modes that read a trained model: it loads, resumes, writes and prints."""

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import ml_collections

from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.build import Run
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.results import Result, write_result
from ebm_jax.runs.settings import ConfigError, one_line, plain, read_section
from ebm_jax.runs.trained import TrainedRun, check_trained, load_trained


@runtime_checkable
class Task(Protocol):
    """A module of `ebm_jax.tasks` that reads a trained model.

    Settings: dataclass of its section of the config. IMAGES_ONLY: whether it refuses points.
    run: (trained, settings, work) -> Result; a ValueError is told in one line.
    """

    Settings: type
    IMAGES_ONLY: bool

    def run(self, trained: TrainedRun, settings: Any, work: ResumableWork) -> Result:
        """Does the work, on every process; `work` keeps what an interruption must not lose."""
        ...


def run_task(
    task: Task,
    mode: str,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    other_modes: Sequence[str],
) -> int:
    """Runs a mode in `<workdir>/<mode>/` and writes its result; returns the exit code.

    other_modes: whose sections of the config do not enter.
    Raises:
      ConfigError: with one line, for what cannot be run.
    """
    settings = read_section(config, mode, task.Settings)
    folder = check_trained(config, workdir) / mode
    with Lock(folder):
        trained = load_trained(config, workdir)
        if task.IMAGES_ONLY:
            check_images(trained.run, mode)
        depends_on = fingerprint(config, trained, mode, other_modes)
        with ResumableWork(folder / "partial", depends_on) as work:
            with one_line():
                result = task.run(trained, settings, work)
                measured_on = trained.provenance(result.num_examples)
                write_result(result, measured_on, mode, plain(config[mode]), folder)
    return 0


def check_images(run: Run, mode: str) -> None:
    """Raises ConfigError, with the mode to use instead, unless a run's data are images."""
    if run.has_images:
        return
    has, use = "points", "evaluate, which measures their density"
    if run.has_trajectories:
        has, use = "trajectories", "rollout, which predicts them"
    raise ConfigError(
        f"--mode={mode} is for images and {run.dataset.name} has {has}: use --mode={use}"
    )


def fingerprint(
    config: ml_collections.ConfigDict, trained: TrainedRun, mode: str, other_modes: Sequence[str]
) -> dict[str, Any]:
    """What partial results of a mode depend on, unless they are a piece that depends on less.

    Every section but those of training and of the other modes, so that a new one is never left out.
    """
    others = {"optimizer", "training", *other_modes} - {mode}
    return {
        "checkpoint_step": trained.step,
        "mode": mode,
        "config": {name: value for name, value in config.to_dict().items() if name not in others},
        "versions": files.versions(),
    }
