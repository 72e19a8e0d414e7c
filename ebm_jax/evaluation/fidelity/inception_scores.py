"""Inception score and kernel inception distance, of logits and features from any network.

The third of the family, the Frechet distance, is in `frechet.py`.
"""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """mean and standard deviation over splits or subsets."""

    mean: float
    deviation: float


def inception_score(logits: np.ndarray, *, num_splits: int = 10) -> Estimate:
    """exp(mean KL(p(y | x) || mean p(y | x))), for each of num_splits runs of the images in turn.

    Salimans et al., arXiv 1606.03498. 1 .. number of classes; it depends on the images per split.

    Args:
      logits: [n, classes], n at least num_splits.
    """
    logits = np.asarray(logits, np.float64)
    if len(logits) < num_splits:
        raise ValueError(f"{len(logits)} images do not make {num_splits} splits: give more")
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    scores = []
    for part in np.split(log_p, [i * len(log_p) // num_splits for i in range(1, num_splits)]):
        p = np.exp(part)
        # A class of no probability anywhere adds 0 log 0 = 0.
        marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
        terms = np.where(p > 0, p * (part - marginal), 0)
        scores.append(np.exp(terms.sum(1).mean()))
    return Estimate(float(np.mean(scores)), float(np.std(scores)))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, num_subsets: int = 100, subset_size: int = 1_000, seed: int = 0
) -> Estimate:
    """KID: the unbiased squared maximum mean discrepancy under k(a, b) = (a.b / d + 1)^3.

    Binkowski et al., arXiv 1801.01401, section 4. Means over subsets drawn without replacement; 0
    is expected for equal laws at any n, so that it can be negative.

    Args:
      x, y: features [n, d], [m, d]. subset_size: at most n and m.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < subset_size or subset_size < 2:
        raise ValueError(
            f"subsets of {subset_size} of {len(x)} and {len(y)} images: write a size from 2 to "
            f"{min(len(x), len(y))}"
        )
    rng = np.random.default_rng(seed)
    found = [
        _discrepancy(*(s[rng.choice(len(s), subset_size, replace=False)] for s in (x, y)))
        for _ in range(num_subsets)
    ]
    return Estimate(float(np.mean(found)), float(np.std(found)))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    number, features = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / features + 1) ** 3

    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return float(within / (number * (number - 1)) - 2 * kernel(x, y).mean())
