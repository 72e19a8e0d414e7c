"""Quality of generated images against real ones: Frechet distances and classifier summaries.

Everything is measured on images in [-1, 1], samples as they are: not clipped, not rounded.
"""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.preprocess import intensity_scale
from ebm_jax.evaluation.fidelity import classifier as classifiers
from ebm_jax.evaluation.fidelity import frechet


class FrechetDistances(NamedTuple):
    """Frechet distances to the training images.

    samples: of all num_samples. samples_as_held_out: of the first num_held_out of them, to compare
    with the floor at equal n; None where there are fewer. floor: of real held-out images.
    """

    samples: float
    samples_as_held_out: float | None
    floor: float
    num_samples: int
    num_held_out: int
    num_training: int


class ImageQuality(NamedTuple):
    """Quality of a set of images.

    pixel: distances over pixels, or None; why_undefined: the reason. share_outside: fraction of
    values beyond [-1, 1].

    Of data with classes: samples and held_out, by a classifier; logits: distances over its logits,
    or None for too few images; num_training: images that it was trained on.
    """

    pixel: FrechetDistances | None
    why_undefined: str | None
    share_outside: float
    samples: classifiers.ClassifierSummary | None
    held_out: classifiers.ClassifierSummary | None
    logits: FrechetDistances | None
    num_training: int | None


@dataclasses.dataclass(frozen=True)
class RealImages:
    """What samples are compared with: real images, their fits and a classifier, each made once.

    training, held_out: uint8; the distances are from the first, whose images the classifier learns
      too. A classifier is trained where there are classes and an image has at most 32 x 32 values.
    low, high, dequantized: of the samples' units, as `data.scale_images` takes them.

    Raises:
      ValueError: for images of different shapes.
    """

    training: Dataset
    held_out: Dataset
    low: float
    high: float
    dequantized: bool = False

    def __post_init__(self) -> None:
        shapes = {self.training.example_shape, self.held_out.example_shape}
        if len(shapes) > 1:
            raise ValueError(f"training and held-out images differ in shape: {sorted(shapes)}")

    def quality(self, samples: np.ndarray) -> ImageQuality:
        """Evaluates samples [n, height, width, channels] in model units.

        Raises:
          ValueError: for samples of another shape, or that are not finite.
        """
        if (shape := samples.shape[1:]) != self.training.example_shape:
            shapes = sorted({shape, self.training.example_shape})
            raise ValueError(f"samples and real images differ in shape: {shapes}")
        if not np.all(np.isfinite(samples)):
            bad = np.sum(~np.isfinite(samples).all((1, 2, 3)))
            raise ValueError(f"{bad} of {len(samples)} samples have non-finite values")
        unit = 2 / (self.high - self.low)
        of_model = {"scale": unit, "offset": -1 - unit * self.low}
        pixel, reason = _distances(samples, self._pixels, of_model)
        outside = float(np.mean((samples < self.low) | (samples > self.high)))
        found = ImageQuality(pixel, reason, outside, None, None, None, None)
        if (classifier := self._classifier) is None:
            return found
        assert self._logits is not None
        logits = classifier.logits(samples, **of_model)
        distances, _ = _distances(logits, self._logits)
        return found._replace(
            samples=classifiers.summarize_logits(logits),
            held_out=classifiers.summarize_logits(self._logits.held_out, self.held_out.labels),
            logits=distances,
            num_training=classifier.num_training,
        )

    @functools.cached_property
    def _pixels(self) -> "_RealFeatures":
        return _RealFeatures(self.training.images, self.held_out.images, self._units)

    @functools.cached_property
    def _logits(self) -> "_RealFeatures | None":
        if (classifier := self._classifier) is None:
            return None
        training, held_out = (
            classifier.logits(one.images, **self._units) for one in (self.training, self.held_out)
        )
        return _RealFeatures(training, held_out, {})

    @functools.cached_property
    def _classifier(self) -> classifiers.Classifier | None:
        training = self.training
        if not classifiers.supports(training.num_classes, training.example_shape):
            return None
        return classifiers.train_classifier(
            training.images, training.labels, training.num_classes, **self._units
        )

    @property
    def _units(self) -> dict[str, float]:
        """From uint8 to [-1, 1]."""
        scale, offset = intensity_scale(-1.0, 1.0, dequantized=self.dequantized)
        return {"scale": scale, "offset": offset}


@dataclasses.dataclass(frozen=True)
class _RealFeatures:
    """Features of real images [n, ...], with Gaussian fits that are made when they are wanted."""

    training: np.ndarray
    held_out: np.ndarray
    scale: dict[str, float]

    @functools.cached_property
    def fits(self) -> tuple[frechet.GaussianFit, frechet.GaussianFit]:
        """(training, held out)."""
        fit = functools.partial(frechet.fit_gaussian, **self.scale)
        return fit(self.training), fit(self.held_out)

    @functools.cached_property
    def floor(self) -> float:
        """The distance of held-out images."""
        training, held_out = self.fits
        return frechet.frechet_distance(held_out, training)


def _distances(
    samples: np.ndarray, real: _RealFeatures, scale: Mapping[str, float] = MappingProxyType({})
) -> tuple[FrechetDistances | None, str | None]:
    """Of features [n, ...], times a scale and with an offset; or the reason for none."""
    num_held_out = len(real.held_out)
    fewest = min(len(samples), len(real.training), num_held_out)
    if (reason := frechet.why_undefined(fewest, samples[0].size)) is not None:
        return None, reason
    training, _ = real.fits
    as_held_out = None
    if len(samples) >= num_held_out:
        first = frechet.fit_gaussian(samples[:num_held_out], **scale)
        as_held_out = frechet.frechet_distance(first, training)
    return FrechetDistances(
        samples=frechet.frechet_distance(frechet.fit_gaussian(samples, **scale), training),
        samples_as_held_out=as_held_out,
        floor=real.floor,
        num_samples=len(samples),
        num_held_out=num_held_out,
        num_training=len(real.training),
    ), None
