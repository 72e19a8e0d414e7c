"""Parameters of another run to start from: `training.init_from=<workdir>[@step]`."""

import pathlib
from typing import Any

import jax

from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.workdir import resolve
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.state import TrainState


def parse(init_from: str) -> tuple[pathlib.Path, int | None]:
    """(workdir, step); the newest step is None.

    Raises:
      ConfigError: where nothing is trained there, or the step is no number.
    """
    name, separator, step = init_from.rpartition("@")
    if not separator or not step.isdigit():
        name, step = init_from, ""
    path = resolve(name, "training.init_from")
    if not (path / "checkpoints").is_dir():
        raise ConfigError(
            f"training.init_from: expected <workdir> or <workdir>@<step> of a trained run, got "
            f"{init_from!r}: there is no {path}/checkpoints"
        )
    return path, int(step) if step else None


def load(init_from: str, state: TrainState) -> TrainState:
    """The state with the parameters and the EMA of another run; everything else as it is.

    Raises:
      ConfigError, CheckpointError: where they cannot be read, or are of other networks.
    """
    path, step = parse(init_from)
    parts = {}
    with Checkpoints(path / "checkpoints", keep_latest=1) as checkpoints:
        for part in ("params", "ema_params"):
            template = getattr(state, part)
            if step is not None:
                parts[part] = checkpoints.restore(step, template, part=part)
            elif (found := checkpoints.restore_latest(template, part=part)) is not None:
                parts[part] = found[1]
            else:
                raise ConfigError(f"training.init_from: {path} has no checkpoint yet")
    return state._replace(**jax.tree.map(lambda leaf: leaf, parts))


def describe(init_from: str) -> dict[str, Any] | None:
    """For the provenance: the workdir and the step that the parameters are of; None for none."""
    if not init_from:
        return None
    path, step = parse(init_from)
    with Checkpoints(path / "checkpoints", keep_latest=1) as checkpoints:
        return {"workdir": str(path), "step": step or max(checkpoints.steps())}
