"""--mode=fid: Frechet and kernel distances of samples, and their Inception score."""

import functools
import pathlib
from typing import Any

import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.data.dataset import Dataset
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES, Extractor
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, read_statistics
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork

_SHOWN = 100  # samples of the picture
_FID50K = 50_000
_MAX_PIXELS = 3_072  # values of an image, for the distance over pixels


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `fid/`: fid.json and samples.png."""
    settings = config.fid
    if min(settings.num_samples, settings.num_splits, settings.batch_size) < 1:
        raise ConfigError("fid: write num_samples, num_splits and batch_size of at least 1")
    split = experiment.load_split(config, settings.split)
    extractor = experiment.feature_extractor(config)
    _require_enough(settings.num_samples, "fid.num_samples", extractor)
    described = experiment.reference_description(config, split, extractor)
    statistics = None
    if settings.stats:
        try:
            statistics = read_statistics(settings.stats, described, extractor.num_features)
        except ValueError as error:
            raise ConfigError(f"fid.stats: {error}") from error
    else:
        _require_enough(split.num_examples, f"{split.name}, {split.split}", extractor)
    trained = workdir.load_trained_on_images(config, directory, "fid")
    model = experiment.make_model(config, trained.parts)
    key = experiment.run_keys(config)["sample"]
    low, high = config.data.low, config.data.high

    def generate(params, index):
        return {"image": data.unscale_images(model(params).generate(key, index), low, high)}

    number = settings.num_samples
    total = number
    if extractor.in_batches:
        total += number + (0 if statistics else split.num_examples)
    folder = pathlib.Path(directory) / "fid" / "parts"
    made_from = workdir.made_from(config, trained, "fid") | {"features": described}
    with ResumableWork(folder, made_from, "sampling, features", total) as parts:
        images = parts.map_batches(
            "samples", generate, trained.params, (np.arange(number),),
            batch_size=config.sampling.batch_size,
        )["image"]  # fmt: skip
        map_batches = functools.partial(parts.map_batches, batch_size=settings.batch_size)
        found = extractor.extract("features", images, map_batches)
        if statistics is None:
            real = extractor.extract("reference", split.images, map_batches)["features"]
            statistics = Statistics(frechet.fit_gaussian(real), described)
        else:
            real = None
        try:
            figures = _figures(settings, extractor, found, statistics, real, images, split)
        except ValueError as error:
            raise ConfigError(f"--mode=fid: {error}") from error
        workdir.write_result(
            config, trained, directory, "fid",
            num_examples=number,
            figures=figures,
            drawings={"samples": plotting.image_grid(images[:_SHOWN])},
            lines=_lines(figures, number, split),
        )  # fmt: skip
    return 0


def _require_enough(number: int, what: str, extractor: Extractor) -> None:
    if (reason := frechet.why_undefined(number, extractor.num_features)) is not None:
        raise ConfigError(f"{what} is too small: {reason}")


def _figures(
    settings: ml_collections.ConfigDict,
    extractor: Extractor,
    found: dict[str, np.ndarray],
    statistics: Statistics,
    real: np.ndarray | None,
    images: np.ndarray,
    split: Dataset,
) -> dict[str, Any]:
    number = len(images)
    is_fid50k = (extractor.title, number, split.split) == (INCEPTION_FEATURES, _FID50K, "train")
    figures: dict[str, Any] = {
        "name": "FID50k" if is_fid50k else f"Frechet distance over {extractor.title}",
        "frechet_distance": frechet.frechet_distance(
            frechet.fit_gaussian(found["features"]), statistics.fit
        ),
        "features": dict(extractor.details),
        "reference": {**statistics.described, "num_images": statistics.fit.num_examples},
        "score": inception_score(found["logits"], num_splits=settings.num_splits)._asdict()
        | {"name": extractor.score_title, "num_splits": settings.num_splits},
        "images": "rounded to 0 .. 255, as they are written to files",
    }
    if real is not None:
        size = min(settings.kid_subset_size, number, len(real))
        figures["kernel_distance"] = kernel_inception_distance(
            found["features"], real, num_subsets=settings.kid_subsets, subset_size=size
        )._asdict() | {"num_subsets": settings.kid_subsets, "subset_size": size}
    values = images[0].size
    if (
        values <= _MAX_PIXELS
        and frechet.why_undefined(min(number, split.num_examples), values) is None
    ):
        scale = {"scale": 1 / 127.5, "offset": -1.0}
        figures["frechet_distance_over_pixels"] = frechet.frechet_distance(
            *(frechet.fit_gaussian(x, **scale) for x in (images, split.images))
        )
    return figures


def _lines(figures: dict[str, Any], number: int, split: Dataset) -> list[str]:
    kernel, score = figures.get("kernel_distance"), figures["score"]
    lines = [f"{number:,} samples against {split.name}, {split.split}"]
    lines.append(f"  {figures['name']:<58}{figures['frechet_distance']:10.3f}")
    if "frechet_distance_over_pixels" in figures:
        pixels = figures["frechet_distance_over_pixels"]
        lines.append(f"  {'Frechet distance over pixels in [-1, 1]':<58}{pixels:10.3f}")
    if kernel:
        error = kernel["standard_error"]
        lines.append(
            f"  {'kernel distance over the same features':<58}{kernel['mean']:10.5f}"
            + ("" if error is None else f" ± {error:.5f} (standard error)")
        )
    lines.append(f"  {score['name']:<58}{score['mean']:10.3f} ± {score['deviation']:.3f}")
    return lines
