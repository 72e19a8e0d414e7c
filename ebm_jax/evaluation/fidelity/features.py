"""Features of images for Frechet and kernel distances: of Inception or of our classifier."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.evaluation.fidelity import classifier as classifiers
from ebm_jax.evaluation.fidelity.inception_weights import read_weights
from ebm_jax.networks import inception

INCEPTION_FEATURES = "Inception features"

# (name, fn, common, arrays) -> {name: [n, ...]}, as `resumable.ResumableWork.map_batches`
OverBatches = Callable[..., dict[str, np.ndarray]]


class Extractor(NamedTuple):
    """in_batches: whether `extract` works through map_batches; else at once, on the host.

    title: of the distances over these features. details: for JSON. num_features: d.

    score_title: of the score over these logits.

    extract: (name, images uint8 [n, height, width, channels], map_batches) ->
        {'features': [n, d], 'logits': [n, classes]}.
    """

    in_batches: bool
    title: str
    score_title: str
    details: Mapping[str, Any]
    num_features: int
    extract: Callable[..., dict[str, np.ndarray]]


def inception_extractor(path: str) -> Extractor:
    """The FID Inception-v3 with weights from a file.

    Raises:
      ValueError: as `read_weights` and `params_from_arrays`.
    """
    weights = read_weights(path)
    params = inception.params_from_arrays(weights.arrays)

    def extract(name: str, images: np.ndarray, map_batches: OverBatches) -> dict[str, np.ndarray]:
        return map_batches(name, inception.inception, params, (images,))

    details = {
        "network": "FID Inception-v3 (2015-12-05)",
        "weights_sha256": weights.sha256,
        "resize": f"bilinear to {inception.SIZE}, as TensorFlow 1 does it",
    }
    return Extractor(
        True, INCEPTION_FEATURES, "Inception score", details, inception.NUM_FEATURES, extract
    )


def classifier_extractor(training: Dataset) -> Extractor:
    """The class scores of our small classifier, trained on a data set here and now."""
    classifier = classifiers.train_classifier(
        training.images / 127.5 - 1, training.labels, training.num_classes
    )

    def extract(name: str, images: np.ndarray, map_batches: OverBatches) -> dict[str, np.ndarray]:
        del name, map_batches
        scores = classifier.scores(images / 127.5 - 1)
        return {"features": scores, "logits": scores}

    details = {
        "network": "our own: logistic regression on radial basis functions; not Inception",
        "trained_on": f"{classifier.num_training} images of {training.name}, {training.split}",
        "resize": "none",
    }
    return Extractor(
        False, "class scores of our small classifier", "classifier's score", details,
        training.num_classes, extract,
    )  # fmt: skip
