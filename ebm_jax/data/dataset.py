"""The container that every data set ends in."""

from typing import NamedTuple

import numpy as np


class Trajectories(NamedTuple):
    """What examples that are next states were cut from; see `sources.trajectories`.

    Attributes:
        states: float32 `[n, length, d]`, z-scores.
        mean, std: float64 `[d]`: a state is `mean + std * z`.
        columns: names of the d values.
        context: number of frames in a label.
        actions: float32 `[n, length, a]`, z-scores, that of a row led to its state; a is 0 where
            labels have none.
    """

    states: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    columns: tuple[str, ...]
    context: int
    actions: np.ndarray


class Dataset(NamedTuple):
    """One split of a data set, held whole: in memory, or memory-mapped where it is large.

    Attributes:
        name: registered name, e.g. `'digits'`.
        split: `'train'`, `'test'`, ... or several joined by `+`.
        images: uint8 `[n, height, width, channels]` with values 0..255, or, for points of the
            plane and states of trajectories, float32 `[n, d]`.
        labels: int32 `[n]`, in `0 .. num_classes - 1`, all zero where there are no classes; or
            float32 `[n, k]`, values that describe an example.
        num_classes: number of classes, 1 where there are none.
        value_range: lowest and highest value that `images` can take: `(0.0, 255.0)` for uint8; for
            points of the plane the square `[low, high]^2` that holds practically all of the mass.
        trajectories: whole, where examples are their states; None: they are not.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    value_range: tuple[float, float]
    trajectories: Trajectories | None = None

    @property
    def num_examples(self) -> int:
        """Number of examples n."""
        return len(self.images)

    @property
    def label_size(self) -> int:
        """Number k of the values in a label; 0 where labels are classes."""
        return self.labels.shape[1] if self.labels.ndim > 1 else 0

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: `(height, width, channels)`, or `(d,)`."""
        return self.images.shape[1:]
