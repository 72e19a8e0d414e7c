"""--mode=restore: corrupted held-out images, restored by chains that start at them."""

import dataclasses

import numpy as np

from ebm_jax.evaluation.images import corruption
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Restorer
from ebm_jax.methods.registry import that_do
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks._image_quality import error_lines

IMAGES_ONLY = True

_SHOWN = 8  # images of the figure, per corruption
_MODEL = "the model's chains"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are corrupted; how the model restores them is a setting of its sampler."""

    corruptions: tuple[str, ...] = setting(
        ("salt_and_pepper", "noise", "blur"), "any of these", one_of=corruption.NAMES
    )
    num_images: int = setting(100, "held-out images, taken from the start", at_least=1)
    salt_fraction: float = setting(
        0.1, "of the pixels, half to black and half to white", at_least=0, at_most=1
    )
    salt_levels: tuple[float, ...] = setting(
        (0.0, 1.0), "that black and white are, in 0..1; IGEBM's code has .1 and .9",
        at_least=0, at_most=1,
    )  # fmt: skip
    noise_std: float = setting(0.2, "of Gaussian noise, in units of the range", at_least=0)
    blur_std: float = setting(0.8, "pixels, of the Gaussian kernel", at_least=0)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`restore/`: a figure per corruption, and restore.json with errors and baselines."""
    run, method = trained.run, trained.run.method
    if not isinstance(method, Restorer):
        raise ValueError(
            f"--mode=restore: expected a method that restores ({that_do(Restorer)}), got "
            f"{run.config.method.name}"
        )
    if not settings.corruptions:
        raise ValueError("restore.corruptions: expected one or more, got none")
    if len(settings.salt_levels) != 2:
        raise ValueError(
            f"restore.salt_levels: expected two levels, (0.1, 0.9), got {settings.salt_levels}"
        )
    low_level, high_level = settings.salt_levels
    training, held_out, key = run.dataset, run.held_out(), run.key("sample")
    labels = held_out.labels[: settings.num_images]
    # In 0..1, as everything from here on.
    true = run.to_unit(held_out.images[: settings.num_images])
    strengths = corruption.strengths(
        salt_fraction=settings.salt_fraction,
        noise_std=settings.noise_std,
        blur_std=settings.blur_std,
    )
    corrupted = {
        name: corruption.corrupt(
            name,
            true,
            strengths[name],
            seed=run.sampling.seed,
            salt_levels=(low_level, high_level),
        )
        for name in settings.corruptions
    }

    def restore(params, x, label, index):
        return {"x": method.restore(params, key, x, index, label)}

    work.begin("restoring", len(true) * len(corrupted))
    errors, figures, lines = {}, {}, []
    for name, x in corrupted.items():
        arrays = (run.from_unit(x), labels, np.arange(len(x), dtype=np.int32))
        restored = work.map_batches(
            name, restore, trained.params, arrays, batch_size=run.sampling.batch_size
        )["x"]
        scale, offset = run.intensity_scale(0.0, 1.0)
        found = nearest_neighbors(x, training.images, 1, scale=scale, offset=offset)
        nearest = found.indices[:, 0]
        guesses = {
            "corrupted input": x,
            _MODEL: (restored - run.data.low) / (run.data.high - run.data.low),
            **{title: repair(x) for title, repair in corruption.BASELINES.items()},
            "nearest training image": run.to_unit(training.images[nearest]),
        }
        guesses = {title: np.clip(guess, 0, 1) for title, guess in guesses.items()}
        errors[name] = {
            title: image_error(guess, true, value_range=1.0) for title, guess in guesses.items()
        }
        columns = {
            title: run.to_pixels(run.from_unit(x[:_SHOWN]))
            for title, x in {"original": true, **guesses}.items()
        }
        figures[name] = image_grids.columns_picture(columns)
        lines += error_lines(errors[name], f"{name} {strengths[name]:g}: {len(true)} images")
    return Result(
        num_examples=len(true),
        metrics={
            "split": held_out.split,
            "chains": "started at the corrupted image",
            "errors": {
                name: {title: error._asdict() for title, error in rows.items()}
                for name, rows in errors.items()
            },
            "units": "the range of the pixel intensities; everything clipped to it first",
        },
        summary=lines,
        figures=figures,
    )
