"""--mode=evaluate: samples from the EMA weights against real data.

Images: Frechet distances, with real held-out images as their floor, and a classifier's summary; the
same of held-out images that are brought to a noise level and sampled down from it, which says the
levels that quality is lost at.
Points of the plane: the learned density against the true one on a grid, and the samples by boxes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ebm_jax import data
from ebm_jax.evaluation.density import plane
from ebm_jax.evaluation.images.quality import RealImages
from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import LevelSampler, Method
from ebm_jax.runs import preview
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _density_fit, _image_quality

IMAGES_ONLY = False

_SHOWN = 8  # images of the figure of levels


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many samples are evaluated."""

    num_samples: int = setting(10_000, "samples", at_least=1)
    from_levels: tuple[int, ...] = setting(
        (), "noise levels, 1 .. T, that held-out images are sampled down from too", at_least=1
    )


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`evaluate/`: evaluation.png and evaluation.json; prints a table."""
    if trained.run.has_trajectories:
        raise ValueError(
            f"--mode=evaluate is for images and points of the plane and {trained.run.dataset.name} "
            "has trajectories: use --mode=rollout, which predicts them"
        )
    evaluate = _evaluate_images if trained.run.has_images else _evaluate_plane
    return evaluate(trained, settings, work)


def _evaluate_images(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    run, held_out, number = trained.run, trained.run.held_out(), settings.num_samples
    levels = settings.from_levels
    method = _level_sampler(run.method, levels) if levels else None
    num_restarted = min(number, held_out.num_examples)
    work.begin("sampling", number + num_restarted * len(levels))
    samples = trained.samples(work, number)
    restarted = {}
    if method is not None:
        images = held_out.images[:num_restarted]
        restarted = {level: _from_level(trained, method, level, images, work) for level in levels}
    real = RealImages(run.dataset, held_out, run.data.low, run.data.high, run.data.dequantize)
    found = real.quality(samples)
    by_level = {level: real.quality(x) for level, x in restarted.items()}
    title = f"{number:,} samples from the EMA weights of step {trained.step}"
    metrics = _image_quality.metrics(found, run.dataset, held_out)
    if by_level:
        metrics["from_levels"] = {
            level: _image_quality.level_metrics(one) for level, one in by_level.items()
        }
    return Result(
        num_examples=number,
        metrics=metrics,
        summary=[
            title,
            *_image_quality.lines(found, run.dataset.name),
            *_image_quality.level_lines(by_level, num_restarted),
        ],
        figures={"evaluation": _image_quality.figure(found, run.to_pixels(samples), held_out)}
        | _level_figure(trained, held_out, restarted, samples),
        file_name="evaluation",
    )


def _level_sampler(method: Method, levels: Sequence[int]) -> LevelSampler:
    """The method, if it can begin at all of these levels."""
    if not isinstance(method, LevelSampler):
        raise ValueError(
            f"evaluate.from_levels: expected () for {type(method).__name__}, whose samples begin "
            f"at noise alone, got {levels}"
        )
    if max(levels) > method.num_pairs or len(set(levels)) < len(levels):
        raise ValueError(
            f"evaluate.from_levels: expected different levels among 1 to {method.num_pairs}, got "
            f"{levels}"
        )
    return method


def _from_level(
    trained: TrainedRun, method: LevelSampler, level: int, images: np.ndarray, work: ResumableWork
) -> np.ndarray:
    """Real images [n, height, width, channels], noised to a level and sampled down from it."""
    run, key = trained.run, trained.run.key("sample")

    def sample(params: Any, x: Any, index: Any) -> dict[str, Any]:
        return {"x": method.sample_from_level(params, key, x, index, level=level)}

    arrays = (run.scale(images), np.arange(len(images), dtype=np.int32))
    return work.map_batches(
        f"from_level_{level}", sample, trained.params, arrays, batch_size=run.sampling.batch_size
    )["x"]


def _level_figure(
    trained: TrainedRun,
    held_out: data.Dataset,
    restarted: dict[int, np.ndarray],
    samples: np.ndarray,
) -> dict[str, np.ndarray]:
    if not restarted:
        return {}
    columns = {"held out": held_out.images[:_SHOWN]}
    for level, x in restarted.items():
        columns[f"from level {level}"] = trained.run.to_pixels(x[:_SHOWN])
    columns["from noise"] = trained.run.to_pixels(samples[:_SHOWN])
    return {"levels": image_grids.columns_picture(columns)}


def _evaluate_plane(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    run, held_out, number = trained.run, trained.run.held_out(), settings.num_samples
    if settings.from_levels:
        raise ValueError(
            f"evaluate.from_levels is of images: expected () for points, got {settings.from_levels}"
        )
    density = data.toy_density(run.dataset.name)
    plane.check_number(number, held_out.num_examples)
    work.begin("sampling", number)
    points = run.to_data_units(trained.samples(work, number))
    with trained.for_densities() as exact:
        model = preview.plane_model(exact.run, trained.params)
        found = plane.density_fit(points, held_out.images, model, density)
    title = f"{number:,} samples from the EMA weights of step {trained.step}"
    return Result(
        num_examples=number,
        metrics=_density_fit.metrics(found, density.name),
        summary=[title, *_density_fit.lines(found, density.name)],
        figures={"evaluation": preview.density_figure(run, model, points)},
        file_name="evaluation",
    )
