"""Parameters as safetensors: arrays by name in one file, which holds no code."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util


def to_bytes(groups: Mapping[str, Any]) -> bytes:
    """Trees of arrays by name as the contents of a file, 'group/a/b' for each leaf."""
    flat = traverse_util.flatten_dict(dict(groups), sep="/")
    return safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in flat.items()})


def from_bytes(content: bytes) -> dict[str, Any]:
    """The trees that `to_bytes` was given."""
    return traverse_util.unflatten_dict(safetensors.numpy.load(content), sep="/")


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The trees that `to_bytes` was given, on the host.

    Raises:
      ValueError: one line, for what is no safetensors file.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        return from_bytes(content)
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no safetensors file that can be read: {error}") from error
