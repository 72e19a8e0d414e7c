"""One checkpoint on disk: its address, reading it, and how these fail.

A checkpoint is a folder `<directory>/<step>/` with the arrays (`state/`, written by Orbax) and the
list of them (`manifest/`). Nothing here knows of other processes; `checkpoints` tells them.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from ebm_jax.training import manifest as manifests

_PATTERN_CHARACTERS = "[]*?\\"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line."""


class NonFiniteError(CheckpointError):
    """The state holds a NaN or an infinity in the array called `name`, so it was not saved."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class DamagedCheckpointError(CheckpointError):
    """What is on disk is not what was saved."""


class ArchitectureError(CheckpointError):
    """The checkpoint holds other arrays than the template asks for."""


def without_patterns(directory: epath.Path) -> epath.Path:
    """The directory, or a link to it where its name has what Orbax and TensorStore do not take.

    Orbax looks for the files that it wrote by a pattern that begins with the directory's name, and
    TensorStore reads a backslash as a slash. Either way a checkpoint would be left incomplete.

    Raises:
      CheckpointError: where no link can be made.
    """
    path = os.fspath(directory)
    if "://" in path or not set(path) & set(_PATTERN_CHARACTERS):
        return directory
    # The same for all commands, as several may read one run; and on every process.
    name = f"ebm_jax_{os.getuid()}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    folder = os.path.join(tempfile.gettempdir(), name)
    link = os.path.join(folder, "checkpoints")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(path, link)
        is_ours = os.lstat(link).st_uid == os.getuid() and os.readlink(link) == path
    except OSError as error:
        raise CheckpointError(f"{path} cannot be linked to: {_first_line(error)}") from error
    if not is_ours or set(link) & set(_PATTERN_CHARACTERS):
        raise CheckpointError(
            f"{path}: expected a name without {' '.join(_PATTERN_CHARACTERS)}, or a directory for "
            f"temporary files that can hold a link to it, got {link}"
        )
    return epath.Path(link)


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns what goes wrong while writing into a CheckpointError of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what} could not be written: {_first_line(error)}") from error


def read_state(folder: epath.Path, address: epath.Path, template: Any, part: str) -> Any:
    """The arrays of one checkpoint in a template's structure; see `Checkpoints.restore`.

    Args:
      folder: the checkpoint's, `<directory>/<step>`, as messages name it.
      address: the same in a directory that storage takes (see `without_patterns`).
      template: pytree of arrays or of `jax.ShapeDtypeStruct`s.
      part: the state's field that the template is of; '' is the whole state.

    Raises:
      ArchitectureError: if the checkpoint holds other arrays than the template.
      DamagedCheckpointError: if it does not hold what was saved.
      CheckpointError: if it may not be read.
    """
    manifest = read_manifest(folder, address)
    prefix = f"{part}/" if part else ""
    wanted = {f"{prefix}{k}": spec for k, spec in manifests.leaf_specs(template).items()}
    stored = {
        name: spec
        for name, spec in manifests.stored_specs(manifest).items()
        if name.startswith(prefix)
    }
    difference = manifests.first_difference(stored, wanted)
    if difference is not None:
        raise ArchitectureError(
            f"{folder} was made by another architecture: {difference};"
            " use the config it was trained with, or another workdir"
        )
    arrays = {
        name: np.zeros(spec.shape, to_dtype(spec.dtype))
        for name, spec in stored.items()
        if 0 in spec.shape
    }
    names = [name for name in stored if name not in arrays]
    if names:
        with _reading(folder):
            arrays |= _read_arrays(address / "state", names)
    damaged = manifests.first_damaged(manifest, arrays)
    if damaged is not None:
        raise DamagedCheckpointError(
            f"{folder} is damaged: {damaged} is not what was saved (checksum)"
        )
    leaves = [arrays[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def read_manifest(folder: epath.Path, address: epath.Path) -> Mapping[str, Any]:
    """The manifest of one checkpoint. Arguments and errors: as `read_state`."""
    with _reading(folder):
        found = ocp.JsonCheckpointHandler().restore(address / "manifest")
    if not manifests.intact(found) or str(found["step"]) != folder.name:
        raise DamagedCheckpointError(f"{folder} is damaged: its manifest is not what was saved")
    return found


def to_dtype(name: str) -> np.dtype:
    """The type of a manifest's name for it, bfloat16 and its kin too."""
    return jax.numpy.dtype(name)


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    """Turns what goes wrong while reading one checkpoint into DamagedCheckpointError."""
    try:
        yield
    except (PermissionError, MemoryError) as error:  # says nothing of the checkpoint
        raise CheckpointError(f"{folder} could not be read: {_first_line(error)}") from error
    except Exception as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {_first_line(error)}") from error


def _read_arrays(folder: epath.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays from what Orbax wrote: zarr arrays in one OCDBT database, all read at once.

    Orbax's own restore gives the same values, but where one array cannot be read it leaves the
    others' reads running, and each prints a traceback later on.
    """
    path = os.fspath(folder)
    base = path if "://" in path else {"driver": "file", "path": f"{path}/"}
    specs = {
        name: {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        }
        for name in names
    }
    opening = {name: tensorstore.open(spec, open=True, read=True) for name, spec in specs.items()}
    reading = {name: opened.result().read() for name, opened in opening.items()}
    return {name: array.result() for name, array in reading.items()}


def _first_line(error: BaseException, limit: int = 160) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
