"""What a Frechet distance stands beside: real images as its floor, and the plainest model."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import Extractor
from ebm_jax.evaluation.fidelity.frechet import GaussianFit
from ebm_jax.evaluation.fidelity.gaussian_images import fit_gaussian_images
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks._features import summarize_images

FLOOR, GAUSSIAN = "real images", "a Gaussian's samples"
_NONE_KEPT = np.zeros(0, np.int64)


class Baseline(NamedTuple):
    """Images in place of samples.

    details: for JSON, and what their features depend on. number: of images.
    draw: (first, stop) -> these images, uint8; None: there are none, as `reason` says.
    made_of: images [n, ...] that these are, or are fitted to.
    """

    title: str
    details: Mapping[str, Any]
    number: int
    draw: Callable[[int, int], np.ndarray] | None
    made_of: np.ndarray
    reason: str = ""


def plan(
    trained: TrainedRun, split: Dataset, number: int, num_features: int, *, max_values: int
) -> list[Baseline]:
    """The baselines of samples that are measured against a split.

    Args:
      split: of which the Gaussian is. Real images are of another: the held-out one, or that of
        training where the split is held out itself.
      number: of samples; as many images, or all that there are. num_features: of an image.
      max_values: of an image; the covariance of larger ones is not computed.
    """
    run = trained.run
    is_held_out = split.split == run.general.held_out_split
    other = run.dataset if is_held_out else run.held_out()
    num_real = min(number, other.num_examples)
    reason = frechet.why_undefined(num_real, num_features) or ""
    floor = Baseline(
        FLOOR,
        {"data": other.name, "split": other.split},
        num_real,
        None if reason else lambda first, stop: np.asarray(other.images[first:stop]),
        other.images[:num_real],
        reason,
    )
    values, seed = int(np.prod(split.example_shape)), run.general.seed
    details = {"data": split.name, "split": split.split, "seed": seed}
    if values > max_values:
        reason = f"images of more than {max_values:,} values have too large a covariance"
    else:
        reason = (
            frechet.why_undefined(number, num_features)
            or frechet.why_undefined(split.num_examples, values)
            or ""
        )
    draw = None
    if not reason:  # so that none is fitted in vain
        draw = functools.partial(fit_gaussian_images(split.images).draw, seed=seed)
    return [floor, Baseline(GAUSSIAN, details, number, draw, split.images, reason)]


def num_measured(baselines: Sequence[Baseline]) -> int:
    """Images whose features are taken."""
    return sum(one.number for one in baselines if one.draw)


def measure(
    baselines: Sequence[Baseline],
    extractor: Extractor,
    reference: GaussianFit,
    work: ResumableWork,
) -> dict[str, dict[str, Any]]:
    """{title: its Frechet distance from the reference, or why there is none}, for JSON."""
    found = {}
    for one in baselines:
        row = {**one.details, "num_images": one.number}
        if one.draw is None:
            found[one.title] = {**row, "undefined": one.reason}
            continue
        name = one.title.replace(" ", "_").replace("'", "")
        row["images_sha256"] = files.arrays_sha256(one.made_of)
        piece = work.piece(name, {**row, **extractor.details}, keep=True)
        summary = summarize_images(piece, extractor, one.draw, one.number, _NONE_KEPT)
        distance = frechet.frechet_distance(summary.moments.fit(), reference)
        found[one.title] = {**row, "frechet_distance": distance}
    return found


def lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of a table whose first column has 58 characters."""
    said = []
    for title, row in found.items():
        if "undefined" in row:
            said.append(f"  the same of {title}: none, as {row['undefined']}")
        else:
            named = f"the same of {title}, {row['split']} ({row['num_images']:,})"
            said.append(f"  {named:<58}{row['frechet_distance']:10.3f}")
    return said
