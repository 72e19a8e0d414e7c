"""The features that fid and fid_stats measure with, and what their statistics are of."""

from typing import Any

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity.classifier import supports
from ebm_jax.evaluation.fidelity.features import (
    Extractor,
    classifier_extractor,
    inception_extractor,
)
from ebm_jax.runs.build import Run
from ebm_jax.runs.settings import one_line


def make_extractor(run: Run, weights: str) -> Extractor:
    """Inception with the weights of a file, else our classifier where the images are small.

    Raises:
      ValueError: for a file that holds no such weights, and for large images without one.
    """
    if weights:
        with one_line("fid.weights"):
            return inception_extractor(weights)
    if supports(run.dataset.num_classes, run.dataset.example_shape):
        return classifier_extractor(run.dataset)
    raise ValueError(
        "fid.weights: expected a file with the weights of the FID Inception-v3 (torch-fidelity's "
        "or pytorch-fid's), which is not downloaded for you, got ''"
    )


def describe_reference(split: Dataset, extractor: Extractor) -> dict[str, Any]:
    """What reference statistics are of; these must match for cached ones to be used."""
    return {
        "data": split.name,
        "split": split.split,
        "image_shape": list(split.example_shape),
        **extractor.details,
    }
