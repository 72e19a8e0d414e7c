"""--mode=interpolate: paths between samples, by turning all of one's noise into the other's."""

import dataclasses

import numpy as np

from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods import interpolation
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import Blend
from ebm_jax.settings import setting

IMAGES_ONLY = True


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which paths."""

    num_pairs: int = setting(8, "pairs of samples, the same as --mode=sample makes", at_least=1)
    num_points: int = setting(9, "images from one to the other, both included", at_least=2)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`interpolate/`: interpolate.png, a path per row, and interpolate.json."""
    run, key = trained.run, trained.run.key("sample")
    if trained.block_size:
        raise ValueError(
            "sampler.chains: expected 'fresh', as a sample of a refreshed buffer has no noise of "
            "its own to turn, got 'refreshed_buffer'"
        )
    paths = interpolation.sample_paths(settings.num_pairs, settings.num_points)

    def sample(params, *blend):
        return {"x": run.method.sample(params, key, Blend(*blend))}

    number = len(paths.first)
    work.begin("interpolating", number)
    x = work.map_batches(
        "paths", sample, trained.params, paths, batch_size=run.sampling.batch_size
    )["x"]
    steps = interpolation.largest_steps(x, settings.num_points)
    return Result(
        num_examples=number,
        metrics={
            "path": "noise of start and steps n(f) = cos(pi f/2) n_0 + sin(pi f/2) n_1",
            "ends": "samples 2 i and 2 i + 1 of --mode=sample",
            "largest_step_over_distance_of_ends": steps,
            "of_a_straight_line": 1 / (settings.num_points - 1),
        },
        summary=[
            f"{settings.num_pairs} paths of {settings.num_points} images; largest step over "
            f"the distance of the ends: median {np.median(steps):.2f}"
        ],
        figures={"interpolate": image_grids.image_grid(run.to_pixels(x), settings.num_points)},
    )
