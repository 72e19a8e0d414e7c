"""--mode=fid: FID and KID of samples, beside what real images and a Gaussian reach."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ebm_jax import parallel
from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import (
    INCEPTION_FEATURES,
    Extractor,
    FeatureSummary,
)
from ebm_jax.evaluation.fidelity.inception_scores import (
    RunningScore,
    kept_for_subsets,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, read_statistics
from ebm_jax.evaluation.fidelity.settings import check_fid_settings, subset_size
from ebm_jax.io import files, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.results import Result
from ebm_jax.runs.settings import one_line
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _fid_baselines
from ebm_jax.tasks._features import (
    describe_reference,
    make_extractor,
    num_kept,
    reference_features,
)

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
    baselines: bool = setting(
        True, "whether real held-out images and a Gaussian's samples are measured likewise"
    )


class _Measured(NamedTuple):
    """What is kept of the samples.

    score: None without logits. pixels: None for large images. shown: the first samples.
    """

    features: FeatureSummary
    score: RunningScore | None
    pixels: frechet.RunningGaussian | None
    shown: np.ndarray


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`fid/`: fid.json and samples.png."""
    run, number = trained.run, settings.num_samples
    split = run.load_split(settings.split)
    extractor = make_extractor(run, settings.weights, settings.batch_size)
    described, statistics, real = describe_reference(split, extractor), None, None
    if settings.stats:
        with one_line("fid.stats"), parallel.all_or_none():
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
    beside = (
        _fid_baselines.plan(trained, split, number, extractor.num_features, max_values=_MAX_PIXELS)
        if settings.baselines
        else []
    )
    num_others = _fid_baselines.num_measured(beside) + (0 if statistics else split.num_examples)
    work.begin("sampling, features", number + num_others)
    found = _measure_samples(trained, settings, extractor, split, work)
    if statistics is None:
        kept = _kept(settings, extractor, split.num_examples)
        depends_on = {**described, "images_sha256": files.arrays_sha256(split.images)}
        piece = work.piece("reference", {**depends_on, "num_kept": len(kept)}, keep=True)
        real = reference_features(piece, extractor, split.images, kept)
        statistics = Statistics(real.moments.fit(), described)
    metrics = _metrics(settings, extractor, found, statistics, real, split)
    metrics["baselines"] = _fid_baselines.measure(beside, extractor, statistics.fit, work)
    return Result(
        num_examples=number,
        metrics=metrics,
        summary=_lines(metrics, number, split),
        figures={"samples": image_grids.image_grid(found.shown)},
    )


def _measure_samples(
    trained: TrainedRun,
    settings: Settings,
    extractor: Extractor,
    split: Dataset,
    work: ResumableWork,
) -> _Measured:
    """Samples made, measured and let go, batch by batch."""
    run, number, shape = trained.run, settings.num_samples, trained.run.dataset.example_shape
    sample, values = trained.sampler(work=work), int(np.prod(shape))
    fewest = min(number, split.num_examples)
    has_pixels = values <= _MAX_PIXELS and frechet.why_undefined(fewest, values) is None
    kept = _kept(settings, extractor, number) if not settings.stats else np.zeros(0, np.int64)
    initial = _Measured(
        FeatureSummary.empty(extractor.num_features, kept),
        RunningScore.empty(number, extractor.num_classes, settings.num_splits)
        if extractor.num_classes
        else None,
        frechet.RunningGaussian.empty(values) if has_pixels else None,
        np.zeros((0, *shape), np.uint8),
    )

    def measure(first: int, stop: int) -> dict[str, np.ndarray]:
        x = sample(first, stop)
        finite, images = np.all(np.isfinite(x), tuple(range(1, x.ndim))), run.to_pixels(x)
        return {"image": images, "is_finite": finite, **extractor.extract(images)}

    def update(state: _Measured, first: int, found: dict[str, np.ndarray]) -> _Measured:
        if not np.all(found["is_finite"]):
            bad = first + int(np.argmin(found["is_finite"]))
            raise ValueError(f"sample {bad} has non-finite values: the model has diverged")
        shown = np.concatenate([state.shown, found["image"]])[:_SHOWN]
        return _Measured(
            state.features.update(found["features"]),
            None if state.score is None else state.score.update(found["logits"]),
            None if state.pixels is None else state.pixels.update(found["image"]),
            state.shown if len(state.shown) == _SHOWN else shown,
        )

    depends_on = trained.fingerprint(
        extractor=extractor.details,
        num_samples=number,
        num_splits=settings.num_splits,
        num_kept=len(kept),
        has_pixels=has_pixels,
    )
    return work.piece("measured", depends_on, keep=True).fold_batches(
        "samples", measure, update, initial, number=number, batch_size=run.sampling.batch_size
    )


def _kept(settings: Settings, extractor: Extractor, number: int) -> np.ndarray:
    """Of so many images, those whose features are kept for KID."""
    return kept_for_subsets(number, num_kept(extractor, settings.kid_subset_size))


def _metrics(
    settings: Settings,
    extractor: Extractor,
    found: _Measured,
    statistics: Statistics,
    real: FeatureSummary | None,
    split: Dataset,
) -> dict[str, Any]:
    number = settings.num_samples
    metrics: dict[str, Any] = {
        "name": _name(extractor, number, split),
        "frechet_distance": frechet.frechet_distance(found.features.moments.fit(), statistics.fit),
        "features": dict(extractor.details),
        "reference": {**statistics.described, "num_images": statistics.fit.num_examples},
        "score": {"name": extractor.score_title, "num_splits": settings.num_splits}
        | (
            {"undefined": "these weights have no logits"}
            if found.score is None
            else found.score.score()._asdict()
        ),
        "images": "in 0 .. 255, as they are written to files",
    }
    if real is not None:
        x, y = found.features.kept, real.kept
        size = subset_size(settings.kid_subset_size, len(x), len(y))
        metrics["kernel_distance"] = kernel_inception_distance(
            x, y, num_subsets=settings.kid_subsets, subset_size=size
        )._asdict() | {
            "num_subsets": settings.kid_subsets,
            "subset_size": size,
            "num_images": {"samples": len(x), "reference": len(y)},
        }
    if found.pixels is not None:
        scale = {"scale": 1 / 127.5, "offset": -1.0}
        metrics["frechet_distance_over_pixels"] = frechet.frechet_distance(
            found.pixels.fit(**scale), frechet.fit_gaussian(split.images, **scale)
        )
    return metrics


def _name(extractor: Extractor, number: int, split: Dataset) -> str:
    """What the Frechet distance is called: FID only over Inception, and of whose weights."""
    if extractor.title != INCEPTION_FEATURES:
        return f"Frechet distance over {extractor.title}"
    is_fid50k = (number, split.split) == (_FID50K, "train")
    return f"{'FID50k' if is_fid50k else 'FID'} (weights: {extractor.details['weights_origin']})"


def _lines(metrics: dict[str, Any], number: int, split: Dataset) -> list[str]:
    kernel, score = metrics.get("kernel_distance"), metrics["score"]
    lines = [f"{number:,} samples against {split.name}, {split.split}"]
    lines.append(f"  {metrics['name']:<58}{metrics['frechet_distance']:10.3f}")
    lines += _fid_baselines.lines(metrics["baselines"])
    if "frechet_distance_over_pixels" in metrics:
        pixels = metrics["frechet_distance_over_pixels"]
        lines.append(f"  {'Frechet distance over pixels in [-1, 1]':<58}{pixels:10.3f}")
    if kernel:
        error = kernel["standard_error"]
        lines.append(
            f"  {'KID over the same features':<58}{kernel['mean']:10.5f}"
            + ("" if error is None else f" ± {error:.5f} (standard error)")
        )
    if "undefined" in score:
        lines.append(f"  {score['name']}: none, as {score['undefined']}")
    else:
        value = f"{score['mean']:10.3f} ± {score['deviation']:.3f} (over splits)"
        lines.append(f"  {score['name']:<58}{value}")
    return lines
