"""The formats of CIFAR: rows of 3072 bytes in planes R, G, B, in binary records or in pickles."""

import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebm_jax.data.storage.archives import Arrays
from ebm_jax.data.storage.paths import reading

ROW = 3 * 32 * 32  # bytes of an image


def images_from_rows(rows: np.ndarray) -> np.ndarray:
    """Images `[n, 32, 32, 3]` from rows `[n, 3072]` in planes R, G, B."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def read_binary(
    path: Path, batches: Mapping[str, Sequence[str]], *, num_classes: int
) -> dict[str, Arrays]:
    """Images and labels from a tar file of binary batches: a label byte, then a row, per image.

    Args:
        path: the tar file, compressed or not.
        batches: `{split: names of its batches}`; those of a split follow each other.
        num_classes: labels are below it.

    Raises:
        ValueError: for another or a damaged file; one line that names it.
    """
    with reading(path, "a tar file of binary CIFAR batches"), tarfile.open(path) as tar:
        contents = {
            Path(member.name).name: content.read()
            for member in tar
            if member.name.endswith(".bin") and (content := tar.extractfile(member))
        }
        arrays = {}
        for split, names in batches.items():
            rows = np.concatenate([np.frombuffer(contents[name], np.uint8) for name in names])
            rows = rows.reshape(-1, 1 + ROW)
            if rows[:, 0].max() >= num_classes:
                raise ValueError(f"a label is {rows[:, 0].max()}, of {num_classes} classes")
            arrays[split] = images_from_rows(rows[:, 1:]), rows[:, 0]
    return arrays


def load_pickle(file) -> Any:
    """Contents of a pickle of arrays and plain containers, of Python 2 or 3.

    Raises:
        pickle.UnpicklingError: for a pickle that asks for anything else.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers, and refuses everything else.

    A pickle can run any code when it is loaded; these come from the network.
    """

    def find_class(self, module, name):
        """The class or function `module.name`, if arrays need it."""
        module = module.replace("numpy.core", "numpy._core")  # its name since NumPy 2
        allowed = {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
