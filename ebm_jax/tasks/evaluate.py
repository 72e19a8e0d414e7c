"""--mode=evaluate: samples from the EMA weights judged against real data.

What is measured depends on the shape of the data: `_JUDGES` holds one function for each.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.evaluation.density import plane
from ebm_jax.evaluation.images import report
from ebm_jax.evaluation.images.quality import image_quality
from ebm_jax.experiment import ConfigError
from ebm_jax.io import files, plotting
from ebm_jax.io.progress import Progress


class Report(NamedTuple):
    """figures: for the JSON. lines: for the terminal. picture: uint8 [height, width, 3]."""

    figures: Mapping[str, Any]
    lines: list[str]
    picture: np.ndarray


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `evaluate/`: evaluation.png and evaluation.json; prints a table."""
    trained = workdir.load_trained(config, directory)
    shape = trained.parts.dataset.example_shape
    if len(shape) not in _JUDGES:
        raise ConfigError(f"--mode=evaluate knows no measure for examples of shape {shape}")
    judge = _JUDGES[len(shape)](config, trained)
    num_samples = config.evaluation.num_samples
    with Progress(num_samples, "sampling") as progress:
        samples = workdir.sample(config, trained, num_samples, progress)
    if jax.process_index() == 0:
        try:
            report = judge(samples)
        except ValueError as error:
            raise ConfigError(f"--mode=evaluate: {error}") from error
        out = pathlib.Path(directory) / "evaluate"
        measured_on = workdir.measured_on(config, trained, num_samples)
        files.write_json(out / "evaluation.json", {"measured_on": measured_on, **report.figures})
        plotting.save_image(out / "evaluation.png", report.picture)
        print(f"{num_samples:,} samples from the EMA weights of step {trained.step}")
        print(*report.lines, f"{out}/evaluation.png and evaluation.json", sep="\n", flush=True)
    return 0


def _judge_images(
    config: ml_collections.ConfigDict, trained: workdir.Trained
) -> Callable[[np.ndarray], Report]:
    """Frechet distances, with real held-out images as their floor, and a classifier's verdict."""
    training = trained.parts.dataset
    held_out = experiment.load_split(config, config.data.held_out_split)
    scale = {"low": config.data.low, "high": config.data.high}

    def judge(samples: np.ndarray) -> Report:
        found = image_quality(samples, training, held_out, **scale)
        return Report(
            report.figures(found, training, held_out),
            report.lines(found, training.name),
            report.picture(found, samples, held_out, **scale),
        )

    return judge


def _judge_plane(
    config: ml_collections.ConfigDict, trained: workdir.Trained
) -> Callable[[np.ndarray], Report]:
    """The learned density against the true one on a grid, and the samples by boxes."""
    parts, params = trained.parts, trained.params
    held_out = experiment.load_split(config, config.data.held_out_split)
    density = data.toy_density(parts.dataset.name)

    def judge(samples: np.ndarray) -> Report:
        model = experiment.plane_model(config, parts, params)
        points = experiment.in_data_units(config, parts, samples)
        found = plane.judge(points, held_out.images, model, density)
        return Report(
            plane.figures(found, density.name),
            plane.lines(found, density.name),
            plane.picture(points, model, density),
        )

    return judge


# By the number of axes of one example: (config, trained) -> (samples -> Report). What can fail
# before sampling fails in the first call.
_JUDGES: dict[int, Callable[..., Callable[[np.ndarray], Report]]] = {
    1: _judge_plane,
    3: _judge_images,
}
