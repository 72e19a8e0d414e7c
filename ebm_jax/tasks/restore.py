"""--mode=restore: spoiled held-out images, repaired by chains that start at them."""

import pathlib

import ml_collections
import numpy as np

from ebm_jax import experiment, workdir
from ebm_jax.evaluation.images import corruption
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.evaluation.images.report import error_lines
from ebm_jax.evaluation.model import Restoration
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork

_SHOWN = 8  # images of the picture, per corruption
_MODEL = "the model's chains"


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `restore/`: a picture per corruption, and restore.json with errors and baselines."""
    trained = workdir.load_trained_on_images(config, directory, "restore")
    settings, training = config.restore, trained.parts.dataset
    if settings.num_images < 1 or not settings.corruptions:
        raise ConfigError("restore: write num_images of at least 1 and one of the corruptions")
    low, high = config.data.low, config.data.high
    held_out = experiment.load_split(config, config.data.held_out_split)
    labels = held_out.labels[: settings.num_images]
    true = held_out.images[: settings.num_images] / 255.0  # 0..1, as everything from here on
    strengths = corruption.strengths(
        salt_fraction=settings.salt_fraction,
        noise_std=settings.noise_std,
        blur_std=settings.blur_std,
    )
    try:
        spoiled = {
            name: corruption.corrupt(
                name, true, strengths.get(name, 0.0), seed=config.sampling.seed
            )
            for name in settings.corruptions
        }
    except ValueError as error:
        raise ConfigError(f"restore: {error}") from error
    model = experiment.make_model(config, trained.parts)
    key = experiment.run_keys(config)["sample"]
    how = Restoration(settings.level, settings.num_steps, settings.temperature)

    def repair(params, x, label, index):
        x = model(params).restore(key, low + (high - low) * x, index, label, how)
        return {"x": (x - low) / (high - low)}

    folder = pathlib.Path(directory) / "restore" / "parts"
    made_from = workdir.made_from(config, trained, "restore")
    errors, drawings, lines = {}, {}, []
    with ResumableWork(folder, made_from, "restoring", len(true) * len(spoiled)) as parts:
        for name, x in spoiled.items():
            arrays = (x.astype(np.float32), labels, np.arange(len(x)))
            repaired = parts.map_batches(
                name, repair, trained.params, arrays,
                batch_size=config.sampling.batch_size,
            )["x"]  # fmt: skip
            known = training.images / 255.0
            guesses = {
                "as spoiled": x,
                _MODEL: repaired,
                **{title: fix(x) for title, fix in corruption.BASELINES.items()},
                "nearest training image": known[nearest_neighbors(x, known, 1).indices[:, 0]],
            }
            guesses = {title: np.clip(guess, 0, 1) for title, guess in guesses.items()}
            errors[name] = {
                title: image_error(guess, true, value_range=1.0) for title, guess in guesses.items()
            }
            columns = {
                title: np.round(255 * x[:_SHOWN]).astype(np.uint8)
                for title, x in {"original": true, **guesses}.items()
            }
            drawings[name] = plotting.columns_picture(columns)
            lines += error_lines(errors[name], f"{name} {strengths[name]:g}: {len(true)} images")
        workdir.write_result(
            config, trained, directory, "restore",
            num_examples=len(true),
            figures={
                "split": held_out.split,
                "chains": "started at the spoiled image",
                "errors": {
                    name: {title: error._asdict() for title, error in of_one.items()}
                    for name, of_one in errors.items()
                },
                "units": "the range of the grey values; everything clipped to it first",
            },
            drawings=drawings,
            lines=lines,
        )  # fmt: skip
    return 0
