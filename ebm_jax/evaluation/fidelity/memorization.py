"""Signs that a model memorizes its training images.

Two of them. Energies of training images lie below those of held-out ones (Li, Chen & Sommer, arXiv
1910.07762, section 4.4): the Kolmogorov-Smirnov test compares the two distributions. Samples lie
nearer to training images than held-out images do.
"""

from typing import Any, NamedTuple

import numpy as np

from ebm_jax.evaluation.images.neighbors import nearest_neighbors


class KSTest(NamedTuple):
    """Two-sample Kolmogorov-Smirnov test.

    statistic: largest difference of the two distribution functions. p_value: under equal
    distributions.

    gap: mean over held-out less mean over training images, in pooled standard deviations.
    """

    statistic: float
    p_value: float
    gap: float


class Nearness(NamedTuple):
    """Distances to the nearest training image, of samples and of held-out images.

    closer: share of the samples nearer than the nearest 1 % of held-out images; about .01 where
    samples are as far from the training images as new data are.
    """

    median_sample: float
    median_held_out: float
    closer: float


def ks_test(training: np.ndarray, held_out: np.ndarray) -> KSTest:
    """Compares values of training [n] and held-out images [m].

    Raises:
      ValueError: for values that are not finite.
    """
    from scipy.stats import ks_2samp

    training, held_out = (np.asarray(x, np.float64) for x in (training, held_out))
    if not (np.all(np.isfinite(training)) and np.all(np.isfinite(held_out))):
        raise ValueError("some energies are not finite: the model has diverged on these images")
    test: Any = ks_2samp(training, held_out)
    spread = np.sqrt((training.var() + held_out.var()) / 2)
    gap = (held_out.mean() - training.mean()) / spread if spread > 0 else 0.0
    return KSTest(float(test.statistic), float(test.pvalue), float(gap))


def nearness(
    samples: np.ndarray,
    held_out: np.ndarray,
    training: np.ndarray,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
) -> tuple[Nearness, np.ndarray, np.ndarray]:
    """(Nearness, distances of the samples [n], of the held-out images [m]).

    Args:
      samples, held_out: [n, ...], [m, ...]. training: [k, ...], memory-mapped uint8 for example.
      scale, offset: from the values of training to those of the others.
    """
    to_samples, to_held_out = (
        nearest_neighbors(x, training, 1, scale=scale, offset=offset).distances[:, 0]
        for x in (samples, held_out)
    )
    close = np.quantile(to_held_out, 0.01)
    found = Nearness(
        float(np.median(to_samples)), float(np.median(to_held_out)),
        float(np.mean(to_samples < close)),
    )  # fmt: skip
    return found, to_samples, to_held_out
