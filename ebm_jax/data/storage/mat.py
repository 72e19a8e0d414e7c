"""MATLAB files with X `[height, width, channels, n]` and y `[n, 1]`, the format of SVHN."""

from pathlib import Path

import numpy as np

from ebm_jax.data.storage.archives import Arrays
from ebm_jax.data.storage.paths import reading


def read_svhn(path: Path) -> Arrays:
    """Images uint8 `[n, 32, 32, 3]` and labels `[n]` of one split of cropped SVHN.

    The file calls the digit 0 by the label 10; here it is 0.

    Raises:
        ValueError: for another or a damaged file; one line that names it.
    """
    import scipy.io

    with reading(path, "an SVHN file in MATLAB format"):
        content = scipy.io.loadmat(path)
        images, labels = np.moveaxis(content["X"], -1, 0), content["y"].reshape(-1)
        if len(images) != len(labels) or images.shape[1:] != (32, 32, 3):
            raise ValueError(f"X has shape {content['X'].shape}, y {content['y'].shape}")
        if images.dtype != np.uint8 or not np.isin(labels, np.arange(11)).all():
            raise ValueError(f"X is {images.dtype}, y from {labels.min()} to {labels.max()}")
    return images, labels.astype(np.int64) % 10
