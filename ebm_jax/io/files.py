"""What a result was made with, and JSON files that any reader can parse.

A number without the versions and the device it came from cannot be reproduced; every JSON file that
this package writes goes through `write_json`, so that a NaN or a NumPy scalar never breaks it.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

_HASHED_ROWS = 1_024
_PACKAGES = ("ebm_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, Any]:
    """Returns the versions and the hardware of this process.

    Keys: `python`; `ebm_jax`, `jax`, `jaxlib`, `flax`, `optax`, `numpy` (None where not installed);
    `platform` (operating system and machine), `backend` (`cpu`, `gpu` or `tpu`), `device_kind`,
    `device_count` (over all processes), `process_count`.
    """
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {
        "platform": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def arrays_sha256(*arrays: np.ndarray) -> str:
    """SHA-256 of shapes, types and values; of memory-mapped arrays a block is read at a time."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype};".encode())
        rows = np.atleast_1d(array)
        for first in range(0, len(rows), _HASHED_ROWS):
            block = rows[first : first + _HASHED_ROWS].ravel()
            digest.update(block.view(np.uint8).data)
    return digest.hexdigest()


def json_safe(value: Any) -> Any:
    """Turns a value into what strict JSON can hold.

    NumPy and JAX scalars become numbers, arrays become nested lists, tuples and sets become lists,
    paths become strings, keys become strings. JSON has no non-finite numbers: they become the
    strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which `float()` reads back.

    Raises:
      TypeError: for a value with no JSON form.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):  # ConfigDict has to_dict
        items = value if isinstance(value, Mapping) else value.to_dict()
        return {str(key): json_safe(item) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, set | frozenset):
        return [json_safe(item) for item in sorted(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        array = np.asarray(value)
        if array.dtype.kind in "biufV" and array.dtype.names is None:  # V: bfloat16 and its kin
            plain = array if array.dtype.kind in "biuf" else array.astype(np.float64)
            return json_safe(plain.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form; turn it into numbers or text first")


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Writes `values` to `path` as strict, indented JSON, replacing the file in one step.

    A reader, or a kill in the middle, sees the old file or the new one and never a half.
    """
    text = json.dumps(json_safe(values), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays to `path` as NumPy's .npz, replacing the file in one step.

    An array that is memory-mapped goes from file to file in pieces.
    """
    with _replacing(path) as file:
        np.savez(file, **arrays)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes bytes to `path` by way of a temporary file beside it; makes missing folders."""
    with _replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, which takes its place when all is written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0o077)  # mkstemp makes files private; give this one the usual mode
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
