"""Weights & Biases and MLflow: services that get a run's metrics, grids of samples and config.

    with Trackers() as others:
        others.start(("wandb",), workdir, config)
        with MetricWriter(workdir, others=others) as writer:
            ...

Where a run is sent (project, server, offline or not) is said by the services' own environment
variables. A resumed run goes on in the same run of the service, whose id is in
`<workdir>/trackers.json`. Neither service forgets: steps that are done again after going back to a
checkpoint are there twice, at the same training step.
"""

import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ebm_jax.io.files import json_safe, write_json

_MOST_PARAMS = 100  # that MLflow takes at once
_MOST_CHARACTERS = 500  # of the value of one


class Tracker(Protocol):
    """A run of a service. run_id: by which a later process goes on with it."""

    run_id: str

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends finite numbers by name, of one training step."""
        ...

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Sends uint8 [height, width, 1 or 3] by name, of one training step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Waits until all is sent, and ends the run."""
        ...


class WandbRun:
    """A run of Weights & Biases. Curves are over `training_step`, and not over calls of log."""

    def __init__(self, run_id: str | None, name: str, workdir: Path, config: Mapping[str, Any]):
        self._wandb: Any = importlib.import_module("wandb")
        self.run_id = run_id or secrets.token_hex(4)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ebm_jax"),
            id=self.run_id,
            resume="allow",
            name=name,
            dir=str(workdir),
            config=config,
            settings=self._wandb.Settings(console="off"),  # the progress bar is no log
        )
        # W&B drops what is logged for a step before its last one, as after going back.
        self._run.define_metric("training_step")
        self._run.define_metric("*", step_metric="training_step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({"training_step": step, **values})

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        pictures = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log({"training_step": step, **pictures})

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


class MlflowRun:
    """A run of MLflow. The config is its params when it begins, and config.json at each start."""

    def __init__(self, run_id: str | None, name: str, workdir: Path, config: Mapping[str, Any]):
        del workdir  # MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where it is kept
        self._mlflow: Any = importlib.import_module("mlflow")
        if run_id:
            self.run_id = run_id
            self._mlflow.start_run(run_id=run_id)
        else:
            self.run_id = self._mlflow.start_run(run_name=name).info.run_id
            params = list(_flat(config).items())
            for first in range(0, len(params), _MOST_PARAMS):
                self._mlflow.log_params(dict(params[first : first + _MOST_PARAMS]))
        self._mlflow.log_dict(config, "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._mlflow.log_metrics(values, step=step)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        for name, image in images.items():
            self._mlflow.log_image(image, key=name, step=step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._mlflow.end_run(status="FAILED" if failed else "FINISHED")


SERVICES: dict[str, Callable[..., Tracker]] = {"wandb": WandbRun, "mlflow": MlflowRun}


class Trackers:
    """Runs of several services. One that fails gets no more; training goes on without it.

    A context manager: what is raised in it ends the runs as failed.
    """

    def __init__(self):
        self._runs: dict[str, Tracker] = {}

    def start(self, names: Sequence[str], workdir: Path, config: Mapping[str, Any]) -> None:
        """Begins the named services' runs of a workdir, or goes on with them; on process 0 alone.

        Raises:
          ValueError: one line, where a service refuses.
        """
        for name in dict.fromkeys(names):
            self._runs[name] = _start(name, workdir, json_safe(config))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends numbers by name to all; those that are not finite are left out."""
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        self._each(lambda run: run.scalars(step, finite))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Sends images, uint8 [height, width, 1 or 3], to all."""
        self._each(lambda run: run.images(step, images))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._each(lambda run: run.close(failed=error is not None))
        self._runs.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, run in list(self._runs.items()):
            try:
                call(run)
            except Exception as error:  # whatever a client raises: days of training go on
                del self._runs[name]
                said = " ".join(str(error).split())
                print(
                    f"{name}: {said}; it gets no more of this run, metrics.jsonl does",
                    file=sys.stderr,
                    flush=True,
                )


def check(names: Sequence[str]) -> None:
    """Raises ImportError, one line, where the package of a service is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"train.writers: {name!r} wants a package that is not installed: "
                f"pip install 'ebm_jax[{name}]'"
            ) from error


def _start(name: str, workdir: Path, config: Mapping[str, Any]) -> Tracker:
    """Goes on with the run that the workdir names, or begins one and writes down its id."""
    path = workdir / "trackers.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    try:
        run = SERVICES[name](known.get(name), workdir.absolute().name, workdir, config)
    except Exception as error:  # of the client, which has many
        said = " ".join(str(error).split())
        hint = f" (it is asked for run {known[name]} of {path})" if name in known else ""
        raise ValueError(f"train.writers: {name} cannot be started: {said}{hint}") from error
    write_json(path, {**known, name: run.run_id})
    return run


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)[:_MOST_CHARACTERS]
    return flat
