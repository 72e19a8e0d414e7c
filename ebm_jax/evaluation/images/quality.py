"""A set of generated images judged against real ones: Frechet distances and a classifier's verdict.

Everything is measured on images in [-1, 1], samples as they are: not clipped, not rounded.
"""

from typing import NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.evaluation.fidelity import classifier as classifiers
from ebm_jax.evaluation.fidelity import frechet


class Distance(NamedTuple):
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


class Judgement(NamedTuple):
    """pixel: over pixels; too_few: why not. share_outside: fraction of values beyond [-1, 1].

    Of data with classes: samples and held_out, the classifier's verdicts; scores: the distance over
    its class scores, or None for too few images; num_training: images that it was trained on.
    """

    pixel: Distance | None
    too_few: str | None
    share_outside: float
    samples: classifiers.Verdict | None
    held_out: classifiers.Verdict | None
    scores: Distance | None
    num_training: int | None


def judge_images(
    samples: np.ndarray, training: Dataset, held_out: Dataset, *, low: float, high: float
) -> Judgement:
    """Judges samples in model units.

    Args:
      samples: [n, height, width, channels]; low, high: their values for grey values 0 and 255.
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
    model_scale = {"scale": unit, "offset": -1 - unit * low}
    grey_scale = {"scale": 1 / 127.5, "offset": -1.0}
    pixel, reason = _distance(
        (samples, training.images, held_out.images), (model_scale, grey_scale, grey_scale)
    )
    outside = float(np.mean((samples < low) | (samples > high)))
    nothing = Judgement(pixel, reason, outside, None, None, None, None)
    if not classifiers.is_for(training.num_classes, training.example_shape):
        return nothing
    judged, real, unseen = (
        np.asarray(x, np.float64) * scale["scale"] + scale["offset"]
        for x, scale in (
            (samples, model_scale),
            (training.images, grey_scale),
            (held_out.images, grey_scale),
        )
    )
    classifier = classifiers.train_classifier(real, training.labels, training.num_classes)
    scores, _ = _distance([classifier.scores(x) for x in (judged, real, unseen)])
    return nothing._replace(
        samples=classifiers.judge(classifier, judged),
        held_out=classifiers.judge(classifier, unseen, held_out.labels),
        scores=scores,
        num_training=classifier.num_training,
    )


def _distance(sets, scales=({}, {}, {})) -> tuple[Distance | None, str | None]:
    """From (samples, training, held out), each [n, ...], to the distance, or why there is none."""
    num_samples, num_training, num_held_out = (len(x) for x in sets)
    fewest = min(num_samples, num_training, num_held_out)
    if (reason := frechet.too_few(fewest, sets[0][0].size)) is not None:
        return None, reason
    fits = [frechet.fit_gaussian(x, **scale) for x, scale in zip(sets, scales, strict=True)]
    samples, training, held_out = fits
    as_held_out = None
    if num_samples >= num_held_out:
        first = frechet.fit_gaussian(sets[0][:num_held_out], **scales[0])
        as_held_out = frechet.frechet_distance(first, training)
    return Distance(
        samples=frechet.frechet_distance(samples, training),
        samples_as_held_out=as_held_out,
        floor=frechet.frechet_distance(held_out, training),
        num_samples=num_samples,
        num_held_out=num_held_out,
        num_training=num_training,
    ), None
