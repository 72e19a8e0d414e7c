"""Parameters to start from: `training.init_from=<workdir>[@step]`, or a model's name or folder."""

import dataclasses
import pathlib
from typing import Any

from ebm_jax.runs import data_facts, model_folder
from ebm_jax.runs.build import Run
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError, one_line
from ebm_jax.runs.workdir import resolve
from ebm_jax.training.checkpoint_files import CheckpointError
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.state import TrainState


def check(init_from: str) -> None:
    """Raises ConfigError where nothing is trained there, and there is no model of that name."""
    if model_folder.is_model(init_from):
        return
    path, _ = _split(init_from)
    if not (path / "checkpoints").is_dir():
        raise ConfigError(
            "training.init_from: expected <workdir> or <workdir>@<step> of a trained run, the "
            f"folder of a model, or one of {', '.join(model_folder.names())}, got {init_from!r}: "
            f"there is no {path}/checkpoints"
        )


def load(init_from: str, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state with the parameters and the EMA of another run; everything else as it is.

    Returns:
      The state, and for the provenance the workdir, or the model, and the step that the
      parameters are of. A model has EMA parameters alone, which take the place of both.
    Raises:
      ConfigError: where they cannot be read, or are of other networks.
    """
    if model_folder.is_model(init_from):
        folder = model_folder.find(init_from)
        params, step = model_folder.read_params(folder, state.ema_params)
        state = state._replace(params=params, ema_params=params)
        return state, {"model": folder.name, "step": step}
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


def with_its_mixture(run: Run, init_from: str, *, is_trained_on: bool) -> Run:
    """A run about the mixture of another, whose parameters mean nothing about one of its own.

    The run as it is where its method is about none, whatever it is.
    Args:
      is_trained_on: so that parameters may be learned anew that were not about a mixture before.
    Raises:
      ConfigError: where the two are about different numbers of Gaussians.
    """
    method = run.method
    if not hasattr(method, "data_mixture"):
        return run
    if model_folder.is_model(init_from):
        found = model_folder.read_facts(model_folder.find(init_from)).mixture
    else:
        with one_line("training.init_from"):
            found = data_facts.kept(_split(init_from)[0]).mixture
    own = DataFacts.of_method(method).mixture
    theirs, ours = (mixture.num_components if mixture else 1 for mixture in (found, own))
    if theirs != ours and (found or not is_trained_on):
        raise ConfigError(
            f"training.init_from: the parameters of {init_from} were learned about "
            f"{f'a mixture of {theirs} Gaussians' if found else '1 Gaussian'}: expected "
            f"method.num_components={theirs}, got {ours}"
        )
    if found is None:
        return run
    assert dataclasses.is_dataclass(method)  # as every method is
    return dataclasses.replace(run, method=dataclasses.replace(method, data_mixture=found))


def _split(init_from: str) -> tuple[pathlib.Path, int | None]:
    name, separator, step = init_from.rpartition("@")
    if not separator or not step.isdigit():
        name, step = init_from, ""
    return resolve(name, "training.init_from"), int(step) if step else None
