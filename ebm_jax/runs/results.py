"""What a mode gives, and how it is written: JSON, figures, a summary on the terminal."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ebm_jax.io import files, plotting
from ebm_jax.runs.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured.

    num_examples: that it rests on. metrics: for the JSON. summary: lines for the terminal.
    figures: uint8 [height, width, 1 or 3] by name. arrays: files of arrays by name.
    file_name: of the JSON, without its ending; '': that of the mode.
    """

    num_examples: int
    metrics: Mapping[str, Any]
    summary: Sequence[str]
    figures: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    file_name: str = ""


def write_result(
    result: Result,
    trained: TrainedRun,
    mode: str,
    settings: Mapping[str, Any],
    folder: pathlib.Path,
) -> None:
    """Writes a result to `folder` and prints its summary, on process 0."""
    if jax.process_index() != 0:
        return
    name = result.file_name or mode
    described = {
        "mode": mode,
        "measured_on": trained.provenance(result.num_examples),
        "settings": dict(settings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for title, array in result.arrays.items():
        np.save(folder / f"{title}.npy", array)
    for title, figure in result.figures.items():
        plotting.save_image(folder / f"{title}.png", figure)
    files.write_json(folder / f"{name}.json", {**described, **result.metrics})
    written = [*(f"{t}.png" for t in result.figures), *(f"{t}.npy" for t in result.arrays)]
    print(*result.summary, f"{folder}/{name}.json; {', '.join(written)}", sep="\n", flush=True)
