"""UCI handwritten digits, 8 x 8, as scikit-learn carries them: 1,797 images in ten classes.

Intensities 0..16 become `round(255 v / 16)`: 17 distinct values from 0 to 255. Half of each class,
drawn at random once and for all, is `train` (901 images), the rest `test` (896), in scikit-learn's
order. (Alternate images would make halves more alike than independent samples are: neighbors were
written by the same hand.)
"""

from typing import Any

import numpy as np

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage.archives import Arrays


def _read(fetch) -> dict[str, Arrays]:
    del fetch  # scikit-learn carries the data
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    # Sorted raw words of a bit generator: a permutation that no NumPy version changes.
    order = np.argsort(np.random.Philox(key=0).random_raw(len(digits.target)))
    by_class = [order[digits.target[order] == label] for label in range(10)]
    halves = {
        "train": np.sort(np.concatenate([members[::2] for members in by_class])),
        "test": np.sort(np.concatenate([members[1::2] for members in by_class])),
    }
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return {split: (images[half], digits.target[half]) for split, half in halves.items()}


SOURCE = prepared_source(
    "digits",
    _read,
    version="1.0.0",
    image_shape=(8, 8, 1),
    num_classes=10,
    description="UCI optical recognition of handwritten digits, test part, 8 x 8.",
    homepage="https://archive.ics.uci.edu/dataset/80",
    is_ordered=True,
)
