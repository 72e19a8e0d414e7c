"""What a mode gives, and how it is written: JSON, figures, a summary on the terminal."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ebm_jax.io import files, image_grids


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured.

    num_examples: that it rests on. metrics: for the JSON. summary: lines for the terminal.
    figures: uint8 [height, width, 1 or 3] by name. archives: .npz files by name, each of arrays by
    name, which may be memory-mapped. image_folders: uint8 [n, height, width, channels] by name,
    written as n PNG files each. other_files: contents by file name.
    file_name: of the JSON, without its ending; '': that of the mode.
    """

    num_examples: int
    metrics: Mapping[str, Any]
    summary: Sequence[str]
    figures: Mapping[str, np.ndarray]
    archives: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    image_folders: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    other_files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    file_name: str = ""


def write_result(
    result: Result,
    measured_on: Mapping[str, object],
    mode: str,
    settings: Mapping[str, Any],
    folder: pathlib.Path,
) -> None:
    """Writes a result to `folder` and prints its summary, on process 0.

    What an earlier result had written there and this one has not is removed: it would stand beside
    figures that it is not of.

    measured_on: see `TrainedRun.provenance`. settings: the section of the mode.
    """
    if jax.process_index() != 0:
        return
    name = result.file_name or mode
    written = [
        *(f"{t}.png" for t in result.figures), *(f"{t}.npz" for t in result.archives),
        *(f"{t}/*.png" for t in result.image_folders),
        *result.other_files,
    ]  # fmt: skip
    described = {
        "mode": mode,
        "measured_on": dict(measured_on),
        "settings": dict(settings),
        "summary": list(result.summary),
        "files": written,
    }
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _files_of(folder / f"{name}.json")
    for title, arrays in result.archives.items():
        files.write_arrays(folder / f"{title}.npz", arrays)
    for title, images in result.image_folders.items():
        shutil.rmtree(folder / title, ignore_errors=True)  # an earlier result may have had more
        for i, image in enumerate(images):
            image_grids.save_image(folder / title / f"{i:0{len(str(len(images)))}d}.png", image)
    for title, content in result.other_files.items():
        files.write_atomically(folder / title, content)
    for title, figure in result.figures.items():
        image_grids.save_image(folder / f"{title}.png", figure)
    files.write_json(folder / f"{name}.json", {**described, **result.metrics})
    for stale in earlier - set(written):
        _remove(folder, stale)
    print(*result.summary, f"{folder}/{name}.json; {', '.join(written)}", sep="\n", flush=True)


def _files_of(path: pathlib.Path) -> set[str]:
    """What the result in a JSON file wrote beside it; of none or of a damaged one, nothing."""
    try:
        found = json.loads(path.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _remove(folder: pathlib.Path, name: str) -> None:
    """A file of an earlier result, or a folder of its images; nothing outside of `folder`."""
    title = name.removesuffix("/*.png")
    if title in ("", "..") or pathlib.PurePath(title).name != title:
        return
    if title == name:
        (folder / name).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder / title, ignore_errors=True)
