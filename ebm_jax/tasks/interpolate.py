"""--mode=interpolate: paths between samples, by turning all of one's noise into the other's."""

import pathlib

import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.evaluation import interpolation
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `interpolate/`: interpolate.png, a path per row, and interpolate.json."""
    trained = workdir.load_trained_on_images(config, directory, "interpolate")
    settings = config.interpolate
    try:
        paths = interpolation.sample_paths(settings.num_pairs, settings.num_points)
    except ValueError as error:
        raise ConfigError(f"interpolate: {error}") from error
    model, number = experiment.make_model(config, trained.parts), len(paths.first)
    key = experiment.run_keys(config)["sample"]

    def generate(params, *blend):
        return {"x": model(params).generate(key, type(paths)(*blend))}

    folder = pathlib.Path(directory) / "interpolate" / "parts"
    made_from = workdir.made_from(config, trained, "interpolate")
    with ResumableWork(folder, made_from, "interpolating", number) as parts:
        x = parts.map_batches(
            "paths", generate, trained.params, paths,
            batch_size=config.sampling.batch_size,
        )["x"]  # fmt: skip
        images = np.asarray(data.unscale_images(x, config.data.low, config.data.high))
        steps = interpolation.largest_steps(x, settings.num_points)
        workdir.write_result(
            config, trained, directory, "interpolate",
            num_examples=number,
            figures={
                "path": "noise of start and steps n(f) = cos(pi f/2) n_0 + sin(pi f/2) n_1",
                "ends": "samples 2 i and 2 i + 1 of --mode=sample",
                "largest_step_over_distance_of_ends": steps,
                "of_a_straight_line": 1 / (settings.num_points - 1),
            },
            drawings={"interpolate": plotting.image_grid(images, settings.num_points)},
            lines=[
                f"{settings.num_pairs} paths of {settings.num_points} images; largest step over "
                f"the distance of the ends: median {np.median(steps):.2f}"
            ],
        )  # fmt: skip
    return 0
