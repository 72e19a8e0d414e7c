"""The features that fid and fid_stats measure with, and what their statistics are of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ebm_jax import parallel
from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity.classifier import supports
from ebm_jax.evaluation.fidelity.features import (
    Extractor,
    FeatureSummary,
    classifier_extractor,
    inception_extractor,
)
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.build import Run
from ebm_jax.runs.settings import one_line

_BLOCK = 256  # images between two updates of the moments, which cost d^2
_KEPT_BYTES = 2**27


def make_extractor(run: Run, weights: str, batch_size: int) -> Extractor:
    """Inception with the weights of a file, else our classifier where the images are small.

    Raises:
      ValueError: for a file that holds no such weights, and for large images without one.
    """
    if weights:
        with one_line("fid.weights"), parallel.all_or_none():
            return inception_extractor(weights, batch_size)
    if supports(run.dataset.num_classes, run.dataset.example_shape):
        return classifier_extractor(run.dataset)
    raise ValueError(
        "fid.weights: expected a file with the weights of the FID Inception-v3 (torch-fidelity's, "
        "pytorch-fid's or StyleGAN3's), which is not downloaded for you, got ''"
    )


def num_kept(extractor: Extractor, subset_size: int) -> int:
    """How many images' features are kept for KID's subsets: what fits into 128 MB, or a subset."""
    return max(_KEPT_BYTES // (4 * extractor.num_features), subset_size)


def reference_features(
    work: ResumableWork, extractor: Extractor, images: np.ndarray, kept_index: np.ndarray
) -> FeatureSummary:
    """The features of real images, in blocks of a memory map."""
    return summarize_images(
        work, extractor, lambda first, stop: images[first:stop], len(images), kept_index
    )


def summarize_images(
    work: ResumableWork,
    extractor: Extractor,
    draw: Callable[[int, int], np.ndarray],
    number: int,
    kept_index: np.ndarray,
) -> FeatureSummary:
    """The features of so many images, block by block; draw(first, stop): these, uint8."""
    return work.fold_batches(
        "reference",
        lambda first, stop: {"features": extractor.extract(draw(first, stop))["features"]},
        lambda summary, _, found: summary.update(found["features"]),
        FeatureSummary.empty(extractor.num_features, kept_index),
        number=number,
        batch_size=_BLOCK,
    )


def describe_reference(split: Dataset, extractor: Extractor) -> dict[str, Any]:
    """What reference statistics are of; these must match for cached ones to be used."""
    return {
        "data": split.name,
        "split": split.split,
        "image_shape": list(split.example_shape),
        **extractor.details,
    }
