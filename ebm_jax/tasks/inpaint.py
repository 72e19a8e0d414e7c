"""--mode=inpaint: hidden pixels of held-out images drawn by the model given the others."""

import pathlib

import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.evaluation.images import masks
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.evaluation.images.report import error_lines
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork

_GREY = 128  # of hidden pixels in the picture


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `inpaint/`: inpaint.png, a row per image, and inpaint.json with errors."""
    trained = workdir.load_trained_on_images(config, directory, "inpaint")
    settings, training = config.inpaint, trained.parts.dataset
    low, high = config.data.low, config.data.high
    if min(settings.num_images, settings.num_draws, settings.num_rounds) < 1:
        raise ConfigError("inpaint: write num_images, num_draws and num_rounds of at least 1")
    try:
        hidden = masks.hidden_pixels(settings.mask, training.example_shape)
    except ValueError as error:
        raise ConfigError(f"inpaint.{error}") from error
    held_out = experiment.load_split(config, config.data.held_out_split)
    shown = held_out.images[: settings.num_images]
    true = np.asarray(data.scale_images(shown, low, high))
    number, draws = len(shown), settings.num_draws
    rows = np.repeat(np.arange(number), draws)  # an image's draws beside each other
    model = experiment.make_model(config, trained.parts)
    key = experiment.run_keys(config)["sample"]

    def fill(params, x, label, index):
        drawn = model(params).inpaint(
            key, x, ~hidden, index, label, settings.num_steps, settings.num_rounds
        )
        return {"x": drawn}

    arrays = (true[rows], held_out.labels[rows], np.arange(len(rows)))
    folder = pathlib.Path(directory) / "inpaint" / "parts"
    made_from = workdir.made_from(config, trained, "inpaint") | {"hidden": hidden}
    with ResumableWork(folder, made_from, "inpainting", len(rows)) as parts:
        x = parts.map_batches(
            "images", fill, trained.params, arrays,
            batch_size=config.sampling.batch_size,
        )["x"].reshape(number, draws, *true.shape[1:])  # fmt: skip
        known = np.asarray(data.scale_images(training.images, low, high))
        neighbour = known[nearest_neighbors(true, known, 1, mask=~hidden).indices[:, 0]]
        guesses = {
            "one draw": x[:, 0],
            f"mean of {draws} draws": x.mean(1),
            "nearest training image": neighbour,
            "mean of the training images": np.broadcast_to(known.mean(0), true.shape),
        }
        errors = {
            name: image_error(np.clip(guess, low, high), true, value_range=high - low,
                              counted=hidden)
            for name, guess in guesses.items()
        }  # fmt: skip

        def grey(x: np.ndarray) -> np.ndarray:
            return np.asarray(data.unscale_images(x, low, high))

        columns = {
            "original": shown,
            "seen": np.where(hidden, np.uint8(_GREY), shown),
            **{f"draw {i + 1}": grey(x[:, i]) for i in range(draws)},
            "nearest training image": grey(np.where(hidden, neighbour, true)),
        }
        title = f"hidden pixels of {number} {held_out.split} images"
        workdir.write_result(
            config, trained, directory, "inpaint",
            num_examples=len(rows),
            figures={
                "split": held_out.split,
                "share_of_pixels_hidden": hidden.mean(),
                "spread_of_draws": float(x.std(1).mean(where=hidden) / (high - low)),
                "error_on_hidden_pixels": {k: v._asdict() for k, v in errors.items()},
                "units": "the range of the grey values",
            },
            drawings={"inpaint": plotting.columns_picture(columns)},
            lines=error_lines(errors, title),
        )  # fmt: skip
    return 0
