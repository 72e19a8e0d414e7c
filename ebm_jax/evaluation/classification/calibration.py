"""Whether a classifier is as often right as it says: calibration by logits [n, classes]."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

_LOG_TEMPERATURES = (-20.0, 20.0)  # natural logarithms, between which the fitted one lies


class Reliability(NamedTuple):
    """Accuracy against confidence, the highest p(y | x), in bins of equal width.

    edges: float [bins + 1], 0 to 1. count: int [bins]. confidence, accuracy: float [bins], means
    over the examples of a bin, NaN where it has none.
    error: the expected calibration error, sum_b count_b / n |accuracy_b - confidence_b| (Guo et
    al., arXiv 1706.04599, equation 3).
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax of [n, classes], float64.

    Raises:
      ValueError: for logits that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not np.all(np.isfinite(logits)):
        raise ValueError("some logits are not finite: the model has diverged on these examples")
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose largest logit is that of their label, int [n]."""
    return float(np.mean(np.argmax(logits, 1) == labels))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label | x), nats."""
    return float(-np.mean(log_probabilities(logits)[np.arange(len(labels)), labels]))


def reliability(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> Reliability:
    """See `Reliability`. labels: int [n].

    Raises:
      ValueError: for no bin, or as `log_probabilities`.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins: expected at least 1, got {num_bins}")
    confident = np.exp(log_probabilities(logits).max(1))
    is_right = np.argmax(logits, 1) == labels
    member = np.minimum((confident * num_bins).astype(int), num_bins - 1)
    count = np.bincount(member, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(member, confident, num_bins) / count
        mean_accuracy = np.bincount(member, is_right, num_bins) / count
    gap = np.abs(mean_accuracy - mean_confidence)
    error = float(np.sum(np.where(count > 0, count * gap, 0.0)) / len(labels))
    edges = np.linspace(0, 1, num_bins + 1)
    return Reliability(edges, count, mean_confidence, mean_accuracy, error)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """T > 0 with the least negative log likelihood of logits / T, which has one minimum in 1 / T.

    Of a classifier that is always right it is the lowest, and of one that knows nothing the highest
    that is looked for, exp(-20) and exp(20).
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits * np.exp(-log_temperature), labels)

    # Flat far from the minimum: first where about it is.
    grid = np.linspace(*_LOG_TEMPERATURES, 161)
    best = np.argmin([loss(value) for value in grid])
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(loss, bounds=(low, high))
    return float(np.exp(found.x))


def cross_fitted(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(logits over temperatures, those of the two halves): no example's own label is in its T.

    Every second example's temperature is fitted on the others.
    """
    scaled, found = np.array(logits, np.float64), []
    for half in (0, 1):
        found.append(fit_temperature(logits[1 - half :: 2], labels[1 - half :: 2]))
        scaled[half::2] /= found[-1]
    return scaled, (found[0], found[1])
