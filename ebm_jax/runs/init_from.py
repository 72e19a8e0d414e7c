"""Parameters of another run to start from: `training.init_from=<workdir>[@step]`."""

import pathlib
from typing import Any

from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.workdir import resolve
from ebm_jax.training.checkpoint_files import CheckpointError
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.state import TrainState


def parse(init_from: str) -> tuple[pathlib.Path, int | None]:
    """(workdir, step); the newest step is None.

    Raises:
      ConfigError: where nothing is trained there, or the step is no number.
    """
    path, step = _split(init_from)
    if not (path / "checkpoints").is_dir():
        raise ConfigError(
            f"training.init_from: expected <workdir> or <workdir>@<step> of a trained run, got "
            f"{init_from!r}: there is no {path}/checkpoints"
        )
    return path, step


def load(init_from: str, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state with the parameters and the EMA of another run; everything else as it is.

    Returns:
      The state, and for the provenance the workdir and the step that the parameters are of.
    Raises:
      ConfigError: where they cannot be read, or are of other networks.
    """
    path, step = _split(init_from)
    with Checkpoints(path / "checkpoints", keep_latest=1) as checkpoints:
        try:
            if step is not None:
                params = checkpoints.restore(step, state.params, part="params")
            elif (found := checkpoints.restore_latest(state.params, part="params")) is not None:
                step, params = found
            else:
                raise ConfigError(f"training.init_from: {path} has no checkpoint yet")
            ema_params = checkpoints.restore(step, state.ema_params, part="ema_params")
        except CheckpointError as error:
            raise ConfigError(f"training.init_from: {error}") from error
    state = state._replace(params=params, ema_params=ema_params)
    return state, {"workdir": str(path), "step": step}


def _split(init_from: str) -> tuple[pathlib.Path, int | None]:
    name, separator, step = init_from.rpartition("@")
    if not separator or not step.isdigit():
        name, step = init_from, ""
    return resolve(name, "training.init_from"), int(step) if step else None
