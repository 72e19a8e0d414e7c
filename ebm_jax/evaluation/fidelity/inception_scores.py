"""Inception score and kernel inception distance, of logits and features from any network.

The third of the family, the Frechet distance, is in `frechet.py`.
"""

from typing import NamedTuple

import numpy as np


class InceptionScore(NamedTuple):
    """mean, and deviation: the standard deviation over splits.

    The deviation is what is published behind a "±"; it is no standard error of the mean.
    """

    mean: float
    deviation: float


class KernelInceptionDistance(NamedTuple):
    """mean over subsets, and its uncertainty.

    standard_error: of the mean, by subsets that share no image; None where there are fewer than two
    of those. subset_deviation: standard deviation over all subsets, which is what other programs
    print behind a "±" and does not fall with their number. num_disjoint: subsets without common
    images that the standard error is from.
    """

    mean: float
    standard_error: float | None
    subset_deviation: float
    num_disjoint: int


def inception_score(logits: np.ndarray, *, num_splits: int = 10) -> InceptionScore:
    """exp(mean KL(p(y | x) || mean p(y | x))), for each of num_splits runs of the images in turn.

    Salimans et al., arXiv 1606.03498. 1 .. number of classes; it depends on the images per split.

    Args:
      logits: [n, classes], n at least num_splits.
    Raises:
      ValueError: for fewer images than splits, or no split.
    """
    running = RunningScore.empty(len(logits), logits.shape[1], num_splits)
    return running.update(logits).score()


class RunningScore(NamedTuple):
    """The Inception score of logits that come in blocks, as `frechet.RunningGaussian` has moments.

    log of a split's score: mean_i sum_c p_ic log p_ic - sum_c q_c log q_c, q_c = mean_i p_ic, so
    that two sums for each split are enough.

    num_seen: images so far. ends: int [splits], where each split ends among all images. sum_p:
    [splits, classes]. sum_p_log_p: [splits]. A plain value.
    """

    num_seen: int
    ends: np.ndarray
    sum_p: np.ndarray
    sum_p_log_p: np.ndarray

    @classmethod
    def empty(cls, num_images: int, num_classes: int, num_splits: int) -> "RunningScore":
        """The sums of no image, of num_images to come.

        Raises:
          ValueError: as `check_splits`.
        """
        check_splits(num_images, num_splits)
        ends = np.array([i * num_images // num_splits for i in range(1, num_splits + 1)])
        return cls(0, ends, np.zeros((num_splits, num_classes)), np.zeros(num_splits))

    def update(self, logits: np.ndarray) -> "RunningScore":
        """The sums with the logits [m, classes] of the next images too."""
        logits = np.asarray(logits, np.float64)
        logits = logits - logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        p = np.exp(log_p)
        terms = (p * np.where(p > 0, log_p, 0)).sum(1)
        sum_p, sum_p_log_p = self.sum_p.copy(), self.sum_p_log_p.copy()
        index = np.arange(self.num_seen, self.num_seen + len(logits))
        split = np.searchsorted(self.ends, index, side="right")
        for i in np.unique(split):
            sum_p[i] += p[split == i].sum(0)
            sum_p_log_p[i] += terms[split == i].sum()
        return RunningScore(self.num_seen + len(logits), self.ends, sum_p, sum_p_log_p)

    def score(self) -> InceptionScore:
        """The score of all images.

        Raises:
          ValueError: before all of them have come.
        """
        if self.num_seen != self.ends[-1]:
            raise ValueError(f"expected {self.ends[-1]} images, got {self.num_seen}")
        sizes = np.diff(self.ends, prepend=0)
        q = self.sum_p / sizes[:, None]
        # A class of no probability anywhere adds 0 log 0 = 0.
        negative_entropy = (q * np.log(np.maximum(q, np.finfo(np.float64).tiny))).sum(1)
        scores = np.exp(self.sum_p_log_p / sizes - negative_entropy)
        return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def kernel_inception_distance(
    x: np.ndarray, y: np.ndarray, *, num_subsets: int = 100, subset_size: int = 1_000, seed: int = 0
) -> KernelInceptionDistance:
    """KID: the unbiased squared maximum mean discrepancy under k(a, b) = (a.b / d + 1)^3.

    Binkowski et al., arXiv 1801.01401, section 4. The mean over subsets; 0 is expected for equal
    distributions at any n, so that it can be negative.

    Both sets are put into a random order and cut into B = min(n, m) // subset_size subsets, again
    and again until there are num_subsets. Those of one order share no image, so that their values
    are independent and the mean of b <= B of them has the standard error s / sqrt(b), s^2 being
    their sample variance, here its mean over the orders. More orders lower the error of the mean
    further, but for KID > 0 not by much: the images are the same.

    Args:
      x, y: features [n, d], [m, d]. subset_size: 2 .. min(n, m). num_subsets: at least 1.
    Raises:
      ValueError: for sizes out of range.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    check_subsets(min(len(x), len(y)), num_subsets, subset_size)
    rng = np.random.default_rng(seed)
    num_disjoint = min(min(len(x), len(y)) // subset_size, num_subsets)
    found, variances = [], []
    while len(found) < num_subsets:
        orders = [rng.permutation(len(s)) for s in (x, y)]
        count = min(num_disjoint, num_subsets - len(found))
        values = [
            _discrepancy(*(
                s[order[i * subset_size : (i + 1) * subset_size]]
                for s, order in zip((x, y), orders, strict=True)
            ))
            for i in range(count)
        ]  # fmt: skip
        found += values
        if count == num_disjoint > 1:  # the last order may have fewer
            variances.append(np.var(values, ddof=1))
    return KernelInceptionDistance(
        mean=float(np.mean(found)),
        standard_error=float(np.sqrt(np.mean(variances) / num_disjoint)) if variances else None,
        subset_deviation=float(np.std(found)),
        num_disjoint=num_disjoint,
    )


def kept_for_subsets(num_examples: int, num_kept: int, *, seed: int = 0) -> np.ndarray:
    """Indices of the examples whose features are kept for subsets: a fixed random choice.

    Returns:
      int64 [min(num_kept, num_examples)], ascending, without repetition.
    """
    chosen = np.random.default_rng(seed).permutation(num_examples)[:num_kept]
    return np.sort(chosen)


def check_splits(num_images: int, num_splits: int) -> None:
    """Raises ValueError where num_images make no Inception score over num_splits."""
    if not 1 <= num_splits <= num_images:
        raise ValueError(f"expected 1 <= num_splits <= {num_images} images, got {num_splits}")


def check_subsets(num_images: int, num_subsets: int, subset_size: int) -> None:
    """Raises ValueError where num_images on either side make no such subsets for a KID."""
    if num_subsets < 1:
        raise ValueError(f"expected num_subsets >= 1, got {num_subsets}")
    if not 2 <= subset_size <= num_images:
        raise ValueError(f"expected 2 <= subset_size <= {num_images} images, got {subset_size}")


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    number, features = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / features + 1) ** 3

    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return float(within / (number * (number - 1)) - 2 * kernel(x, y).mean())
