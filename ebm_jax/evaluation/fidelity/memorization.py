"""Whether a model has learned its training images by heart.

Two signs. Energies of training images lie below those of held-out ones (Li, Chen & Sommer, arXiv
1910.07762, section 4.4): the Kolmogorov-Smirnov test compares the two laws. Samples lie nearer to
training images than held-out images do.
"""

from typing import NamedTuple

import numpy as np

from ebm_jax.evaluation.images.errors import nearest


class TwoLaws(NamedTuple):
    """statistic: largest difference of the two distribution functions. p_value: of equal laws.

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


def compare_laws(training: np.ndarray, held_out: np.ndarray) -> TwoLaws:
    """Two-sample Kolmogorov-Smirnov test of values [n] and [m].

    Raises:
      ValueError: for values that are not finite.
    """
    from scipy.stats import ks_2samp

    training, held_out = (np.asarray(x, np.float64) for x in (training, held_out))
    if not (np.all(np.isfinite(training)) and np.all(np.isfinite(held_out))):
        raise ValueError("some energies are not finite: the model has diverged on these images")
    test = ks_2samp(training, held_out)
    spread = np.sqrt((training.var() + held_out.var()) / 2)
    gap = (held_out.mean() - training.mean()) / spread if spread > 0 else 0.0
    return TwoLaws(float(test.statistic), float(test.pvalue), float(gap))


def nearness(
    samples: np.ndarray, held_out: np.ndarray, training: np.ndarray
) -> tuple[Nearness, np.ndarray, np.ndarray]:
    """(Nearness, distances of the samples [n], of the held-out images [m]), of rows [., d]."""
    of_samples, of_held_out = (nearest(x, training, 1)[1][:, 0] for x in (samples, held_out))
    close = np.quantile(of_held_out, 0.01)
    found = Nearness(
        float(np.median(of_samples)), float(np.median(of_held_out)),
        float(np.mean(of_samples < close)),
    )  # fmt: skip
    return found, of_samples, of_held_out
