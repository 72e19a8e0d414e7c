"""--mode=fid: FID and KID of samples, and their Inception score."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES, Extractor
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, read_statistics
from ebm_jax.evaluation.fidelity.settings import check_fid_settings, subset_size
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.results import Result
from ebm_jax.runs.settings import one_line
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks._features import describe_reference, make_extractor

IMAGES_ONLY = True

_SHOWN = 100  # samples of the figure
_FID50K = 50_000
_MAX_PIXELS = 3_072  # values of an image, for the distance over pixels


@dataclasses.dataclass(frozen=True)
class Settings:
    """The features, the reference, and how many samples; fid_stats reads them too."""

    weights: str = setting(
        "", "file of the FID Inception-v3; '': our classifier, for small images alone"
    )
    stats: str = setting("", ".npz of reference statistics; '': computed from the split")
    split: str = setting("train", "that samples are compared with")
    num_samples: int = setting(50_000, "what is called FID50k has so many", at_least=2)
    batch_size: int = setting(64, "images that features are taken of at once", at_least=1)
    num_splits: int = setting(10, "of the samples, for the Inception score", at_least=1)
    kid_subsets: int = setting(100, "whose mean is the KID", at_least=1)
    kid_subset_size: int = setting(1_000, "images", at_least=2)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`fid/`: fid.json and samples.png."""
    run, number = trained.run, settings.num_samples
    split = run.load_split(settings.split)
    extractor = make_extractor(run, settings.weights)
    described, statistics = describe_reference(split, extractor), None
    if settings.stats:
        with one_line("fid.stats"):
            statistics = read_statistics(settings.stats, described, extractor.num_features)
    with one_line("fid"):
        check_fid_settings(
            num_samples=number,
            num_features=extractor.num_features,
            num_splits=settings.num_splits,
            num_reference=None if statistics else split.num_examples,
            kid_subsets=settings.kid_subsets,
            kid_subset_size=settings.kid_subset_size,
        )
    total = number
    if extractor.in_batches:
        total += number + (0 if statistics else split.num_examples)
    work.begin("sampling, features", total)
    images = run.to_pixels(trained.samples(work, number))
    of_samples = trained.fingerprint(extractor=extractor.details, num_samples=number)
    found, real = _features(extractor, "features", images, settings, work, of_samples), None
    if statistics is None:
        real = _features(extractor, "reference", split.images, settings, work, described)[
            "features"
        ]
        statistics = Statistics(frechet.fit_gaussian(real), described)
    metrics = _metrics(settings, extractor, found, statistics, real, images, split)
    return Result(
        num_examples=number,
        metrics=metrics,
        summary=_lines(metrics, number, split),
        figures={"samples": plotting.image_grid(images[:_SHOWN])},
    )


def _features(
    extractor: Extractor,
    name: str,
    images: np.ndarray,
    settings: Settings,
    work: ResumableWork,
    depend_on: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Features and logits; kept whatever is measured with them."""
    piece = work.piece(name, depend_on)
    map_batches = functools.partial(piece.map_batches, batch_size=settings.batch_size)
    return extractor.extract(name, images, map_batches)


def _metrics(
    settings: Settings,
    extractor: Extractor,
    found: dict[str, np.ndarray],
    statistics: Statistics,
    real: np.ndarray | None,
    images: np.ndarray,
    split: Dataset,
) -> dict[str, Any]:
    number = len(images)
    is_fid50k = (extractor.title, number, split.split) == (INCEPTION_FEATURES, _FID50K, "train")
    metrics: dict[str, Any] = {
        "name": "FID50k" if is_fid50k else f"Frechet distance over {extractor.title}",
        "frechet_distance": frechet.frechet_distance(
            frechet.fit_gaussian(found["features"]), statistics.fit
        ),
        "features": dict(extractor.details),
        "reference": {**statistics.described, "num_images": statistics.fit.num_examples},
        "score": inception_score(found["logits"], num_splits=settings.num_splits)._asdict()
        | {"name": extractor.score_title, "num_splits": settings.num_splits},
        "images": "in 0 .. 255, as they are written to files",
    }
    if real is not None:
        size = subset_size(settings.kid_subset_size, number, len(real))
        metrics["kernel_distance"] = kernel_inception_distance(
            found["features"], real, num_subsets=settings.kid_subsets, subset_size=size
        )._asdict() | {"num_subsets": settings.kid_subsets, "subset_size": size}
    values, fewest = images[0].size, min(number, split.num_examples)
    if values <= _MAX_PIXELS and frechet.why_undefined(fewest, values) is None:
        scale = {"scale": 1 / 127.5, "offset": -1.0}
        metrics["frechet_distance_over_pixels"] = frechet.frechet_distance(
            *(frechet.fit_gaussian(x, **scale) for x in (images, split.images))
        )
    return metrics


def _lines(metrics: dict[str, Any], number: int, split: Dataset) -> list[str]:
    kernel, score = metrics.get("kernel_distance"), metrics["score"]
    lines = [f"{number:,} samples against {split.name}, {split.split}"]
    lines.append(f"  {metrics['name']:<58}{metrics['frechet_distance']:10.3f}")
    if "frechet_distance_over_pixels" in metrics:
        pixels = metrics["frechet_distance_over_pixels"]
        lines.append(f"  {'Frechet distance over pixels in [-1, 1]':<58}{pixels:10.3f}")
    if kernel:
        error = kernel["standard_error"]
        lines.append(
            f"  {'KID over the same features':<58}{kernel['mean']:10.5f}"
            + ("" if error is None else f" ± {error:.5f} (standard error)")
        )
    lines.append(
        f"  {score['name']:<58}{score['mean']:10.3f} ± {score['deviation']:.3f} (over splits)"
    )
    return lines
