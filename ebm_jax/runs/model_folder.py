"""A trained model as a folder that goes anywhere: weights, what they are of, and a card.

    weights.safetensors   'params/..': the EMA parameters; 'moments/..', 'labels/..' or
                          'mixture/..' where the method takes these from the data
    model.json            the config, the shapes of the data, the step, the SHA-256 of the weights
    card.md               for people

No example of the data is in it, and none is needed to sample or to evaluate energies.
"""

import difflib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import ebm_jax
from ebm_jax import data
from ebm_jax.io import files, weights
from ebm_jax.methods.base import Params
from ebm_jax.runs import build
from ebm_jax.runs.build import Run
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError, one_line
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.runs.workdir import config_from_json, resolve

WEIGHTS, DESCRIPTION, CARD = "weights.safetensors", "model.json", "card.md"
_LAYOUT = 1
_RELEASED = pathlib.Path(ebm_jax.__file__).parent / "released"


def names() -> list[str]:
    """The models that come with the package."""
    return sorted(path.parent.name for path in _RELEASED.glob(f"*/{DESCRIPTION}"))


def is_model(name: str | os.PathLike) -> bool:
    """Whether it is the name of one of these, or a folder of a model."""
    return os.fspath(name) in names() or (resolve(name, "model") / DESCRIPTION).is_file()


def find(name: str | os.PathLike) -> pathlib.Path:
    """The folder of a model.

    Raises:
      ConfigError: with the nearest name, where there is none.
    """
    known = names()
    if os.fspath(name) in known:
        return _RELEASED / name
    if is_model(name):
        return resolve(name, "model")
    close = difflib.get_close_matches(os.fspath(name), known, cutoff=0)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"model: expected one of {', '.join(known)}, or a folder with {DESCRIPTION} in it, got "
        f"{os.fspath(name)!r}{hint}"
    )


def contents(trained: TrainedRun) -> dict[str, bytes]:
    """Weights and description of a model by file name."""
    run, dataset = trained.run, trained.run.dataset
    facts = DataFacts.of_method(run.method)
    stored = weights.to_bytes({"params": trained.params, **facts.groups()})
    config = run.config.to_dict() | {"data_dir": ""}  # where they were is no part of a model
    description = {
        "layout": _LAYOUT,
        "step": trained.step,
        "ema_decay": trained.ema_decay,
        "weights_sha256": hashlib.sha256(stored).hexdigest(),
        "num_parameters": num_parameters(trained.params),
        "data": {
            "name": dataset.name,
            "split": dataset.split,
            "num_examples": dataset.num_examples,
            "example_shape": dataset.example_shape,
            "dtype": str(dataset.images.dtype),
            "label_size": dataset.label_size,
            "num_classes": dataset.num_classes,
            "value_range": dataset.value_range,
        },
        "versions": files.versions(),
        "config": config,
    }
    text = json.dumps(files.json_safe(description), indent=2, allow_nan=False) + "\n"
    return {WEIGHTS: stored, DESCRIPTION: text.encode()}


def num_parameters(params: Params) -> int:
    """Numbers in all arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def read(folder: pathlib.Path) -> TrainedRun:
    """The model of a folder, without its data: its data set has the shapes and no example.

    Raises:
      ConfigError: with one line, for files that are missing, damaged or of another version.
    """
    with one_line():
        description = _description(folder)
        groups = _weights(folder, description)
        config = config_from_json(description["config"])
        general, sections = build.check_sections(config)
        dataset = _without_examples(description["data"])
        method = build.make_method(config, dataset, DataFacts.of_groups(groups))
        run = Run(config, dataset, method, general, sections["data"], sections["sampling"])
        params = _fitting(folder, groups["params"], build.params_template(run))
        return TrainedRun(run, description["step"], params, description["ema_decay"], folder)


def read_params(folder: pathlib.Path, template: Params) -> tuple[Params, int]:
    """(parameters of a model that have the shapes of others, the step that they are of).

    Raises:
      ConfigError: with one line, where they have not, and as `read`.
    """
    with one_line("training.init_from"):
        description = _description(folder)
        groups = _weights(folder, description)
        return _fitting(folder, groups["params"], template), description["step"]


def read_facts(folder: pathlib.Path) -> DataFacts:
    """What a model's method took from its data.

    Raises:
      ConfigError: as `read`.
    """
    with one_line("training.init_from"):
        return DataFacts.of_groups(_weights(folder, _description(folder)))


def _description(folder: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / DESCRIPTION).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / DESCRIPTION} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("layout") != _LAYOUT:
        raise ValueError(
            f"{folder / DESCRIPTION}: expected the description of a model of layout {_LAYOUT}: use "
            "the version of ebm_jax that wrote it"
        )
    return found


def _weights(folder: pathlib.Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Checked against the SHA-256 that the description has of them."""
    content = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != description["weights_sha256"]:
        raise ValueError(f"{folder / WEIGHTS} is not what {DESCRIPTION} was written for (SHA-256)")
    return weights.read(folder / WEIGHTS)


def _without_examples(described: Mapping[str, Any]) -> data.Dataset:
    shape, size = tuple(described["example_shape"]), described["label_size"]
    labels = np.zeros((0, size), np.float32) if size else np.zeros(0, np.int32)
    return data.Dataset(
        described["name"],
        described["split"],
        np.zeros((0, *shape), described["dtype"]),
        labels,
        described["num_classes"],
        tuple(described["value_range"]),
    )


def _fitting(folder: pathlib.Path, params: Params, template: Params) -> Params:
    """The parameters, after a comparison of names and shapes."""

    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in leaves}

    found, wanted = shapes(params), shapes(template)
    if differing := sorted(k for k in found | wanted if found.get(k) != wanted.get(k)):
        name = differing[0]
        raise ValueError(
            f"the model in {folder} is of another architecture: {name} is "
            f"{found.get(name, 'absent')}, expected {wanted.get(name, 'absent')}"
        )
    return params
