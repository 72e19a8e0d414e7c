"""A classifier of real images, to summarize samples with.

Multinomial logistic regression on the radial basis functions exp(-gamma |x - c|^2) about training
images c: all of them up to a thousand, then a fixed random choice (Nystroem). It trains in seconds,
the same each time, and far from the training images its evidence fades, so that it is not confident
of noise or of blends of two classes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_MAX_VALUES = 32 * 32  # of an image; for larger ones distances in pixels say little
_MAX_CENTERS = 1_000
_MAX_TRAINING = 10_000
_BLOCK = 4_096  # images whose basis functions are held at once
_INVERSE_PENALTY = 10.0  # C of scikit-learn: held-out UCI digits get a median confidence near .95


class Classifier(NamedTuple):
    """logits: (x [n, ...], *, scale=1, offset=0) -> [n, num_classes], float64.

    Of scale * x + offset: log p(class | x) minus its class mean.

    They serve as features too: they are what the classifier knows of an image.
    num_training: images that it was trained on.
    """

    logits: Callable[..., np.ndarray]
    num_classes: int
    num_training: int


class ClassifierSummary(NamedTuple):
    """Classes and confidence of a set of images.

    num_images: n. class_share: [num_classes], fraction of the images given to each class.
    median_confidence: median over images of the highest p(class | image).
    accuracy: fraction of the images given to their own class, None where that is not known.
    """

    num_images: int
    class_share: np.ndarray
    median_confidence: float
    accuracy: float | None


def supports(num_classes: int, example_shape: tuple[int, ...]) -> bool:
    """Support for such data: two classes or more, and small images."""
    return num_classes > 1 and math.prod(example_shape) <= _MAX_VALUES


def train_classifier(
    x: np.ndarray, labels: np.ndarray, num_classes: int, *, scale: float = 1.0, offset: float = 0.0
) -> Classifier:
    """Trains on real images scale * x + offset.

    Args:
      x: [n, ...] of any real type; a few units' range with scale and offset, the scale of what is
        classified later, which is taken as it is.
      labels: int [n], each of 0 .. num_classes - 1 among them.
    Raises:
      ValueError: for fewer than two classes, or a class without an image.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    absent = sorted(set(range(num_classes)) - set(np.unique(labels).tolist()))
    if num_classes < 2 or absent:
        raise ValueError(
            f"a classifier of {num_classes} classes needs two or more, each with an image; "
            f"there is none of {absent}"
        )
    if len(x) > _MAX_TRAINING:
        chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:_MAX_TRAINING])
        x, labels = x[chosen], labels[chosen]
    x = scale * _rows(x) + offset
    basis = Nystroem(
        gamma=1 / (x.shape[1] * x.var()),
        n_components=min(len(x), _MAX_CENTERS),
        random_state=0,
    )
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1_000)
    with threadpool_limits(1):  # no slower, and the same on any number of cores
        model.fit(basis.fit_transform(x), labels)

    def logits(images: np.ndarray, *, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
        blocks = (
            scale * _rows(images[first : first + _BLOCK]) + offset
            for first in range(0, len(images), _BLOCK)
        )
        found = np.concatenate([model.decision_function(basis.transform(x)) for x in blocks])
        if num_classes == 2:  # scikit-learn gives log p_1 - log p_0 alone
            found = np.stack([-found, found], axis=1) / 2
        return found - found.mean(1, keepdims=True)

    return Classifier(logits, num_classes, len(x))


def summarize_logits(logits: np.ndarray, labels: np.ndarray | None = None) -> ClassifierSummary:
    """Classes and confidence by logits [n, num_classes].

    Args:
      labels: int [n], the images' classes where they are known.
    """
    given = logits.argmax(1)
    confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    counts = np.bincount(given, minlength=logits.shape[1])
    return ClassifierSummary(
        num_images=len(logits),
        class_share=counts / len(logits),
        median_confidence=float(np.median(confidence)),
        accuracy=None if labels is None else float(np.mean(given == labels)),
    )


def _rows(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x.reshape(len(x), -1)
