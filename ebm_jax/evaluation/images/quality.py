"""Quality of generated images against real ones: Frechet distances and classifier summaries.

Everything is measured on images in [-1, 1], samples as they are: not clipped, not rounded.
"""

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


def image_quality(
    samples: np.ndarray,
    training: Dataset,
    held_out: Dataset,
    *,
    low: float,
    high: float,
    dequantized: bool = False,
) -> ImageQuality:
    """Evaluates samples in model units.

    Args:
      samples: [n, height, width, channels]; low, high, dequantized: of the model's units, as
        `data.scale_images` takes them.
      training, held_out: real images, uint8; the distances are from the first, whose images the
        classifier learns too. A classifier is trained where there are classes and an image has at
        most 32 x 32 values.
    Raises:
      ValueError: for images of different shapes, or samples that are not finite.
    """
    shapes = {samples.shape[1:], training.example_shape, held_out.example_shape}
    if len(shapes) > 1:
        raise ValueError(f"samples and real images differ in shape: {sorted(shapes)}")
    if not np.all(np.isfinite(samples)):
        bad = np.sum(~np.isfinite(samples).all((1, 2, 3)))
        raise ValueError(f"{bad} of {len(samples)} samples have non-finite values")
    unit = 2 / (high - low)
    of_model = {"scale": unit, "offset": -1 - unit * low}
    scale, offset = intensity_scale(-1.0, 1.0, dequantized=dequantized)
    of_real = {"scale": scale, "offset": offset}
    pixel, reason = _distances(
        (samples, training.images, held_out.images), (of_model, of_real, of_real)
    )
    outside = float(np.mean((samples < low) | (samples > high)))
    found = ImageQuality(pixel, reason, outside, None, None, None, None)
    if not classifiers.supports(training.num_classes, training.example_shape):
        return found
    classifier = classifiers.train_classifier(
        training.images, training.labels, training.num_classes, **of_real
    )
    logits = [
        classifier.logits(x, **scale)
        for x, scale in (
            (samples, of_model), (training.images, of_real), (held_out.images, of_real)
        )
    ]  # fmt: skip
    distances, _ = _distances(logits)
    return found._replace(
        samples=classifiers.summarize_logits(logits[0]),
        held_out=classifiers.summarize_logits(logits[2], held_out.labels),
        logits=distances,
        num_training=classifier.num_training,
    )


def _distances(sets, scales=({}, {}, {})) -> tuple[FrechetDistances | None, str | None]:
    """From (samples, training, held out), each [n, ...], to distances, or the reason for none."""
    num_samples, num_training, num_held_out = (len(x) for x in sets)
    fewest = min(num_samples, num_training, num_held_out)
    if (reason := frechet.why_undefined(fewest, sets[0][0].size)) is not None:
        return None, reason
    fits = [frechet.fit_gaussian(x, **scale) for x, scale in zip(sets, scales, strict=True)]
    samples, training, held_out = fits
    as_held_out = None
    if num_samples >= num_held_out:
        first = frechet.fit_gaussian(sets[0][:num_held_out], **scales[0])
        as_held_out = frechet.frechet_distance(first, training)
    return FrechetDistances(
        samples=frechet.frechet_distance(samples, training),
        samples_as_held_out=as_held_out,
        floor=frechet.frechet_distance(held_out, training),
        num_samples=num_samples,
        num_held_out=num_held_out,
        num_training=num_training,
    ), None
