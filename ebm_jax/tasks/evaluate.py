"""--mode=evaluate: samples from the EMA weights against real data.

Images: Frechet distances, with real held-out images as their floor, and a classifier's summary.
Points of the plane: the learned density against the true one on a grid, and the samples by boxes.
"""

import dataclasses

from ebm_jax import data
from ebm_jax.evaluation.density import plane
from ebm_jax.evaluation.images.quality import image_quality
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import preview
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _density_fit, _image_quality

IMAGES_ONLY = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many samples are evaluated."""

    num_samples: int = setting(10_000, "samples", at_least=1)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`evaluate/`: evaluation.png and evaluation.json; prints a table."""
    if trained.run.has_trajectories:
        raise ValueError(
            f"--mode=evaluate is for images and points of the plane and {trained.run.dataset.name} "
            "has trajectories: use --mode=rollout, which predicts them"
        )
    evaluate = _evaluate_images if trained.run.has_images else _evaluate_plane
    return evaluate(trained, settings.num_samples, work)


def _evaluate_images(trained: TrainedRun, number: int, work: ResumableWork) -> Result:
    run, held_out = trained.run, trained.run.held_out()
    work.begin("sampling", number)
    samples = trained.samples(work, number)
    found = image_quality(
        samples, run.dataset, held_out,
        low=run.data.low, high=run.data.high, dequantized=run.data.dequantize,
    )  # fmt: skip
    title = f"{number:,} samples from the EMA weights of step {trained.step}"
    return Result(
        num_examples=number,
        metrics=_image_quality.metrics(found, run.dataset, held_out),
        summary=[title, *_image_quality.lines(found, run.dataset.name)],
        figures={"evaluation": _image_quality.figure(found, run.to_pixels(samples), held_out)},
        file_name="evaluation",
    )


def _evaluate_plane(trained: TrainedRun, number: int, work: ResumableWork) -> Result:
    run, held_out = trained.run, trained.run.held_out()
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
