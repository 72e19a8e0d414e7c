"""--mode=inpaint: hidden pixels of held-out images sampled by the model given the others."""

import dataclasses

import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.images import masks
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Inpainter
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks._image_quality import error_lines

IMAGES_ONLY = True

_GRAY = 128  # of hidden pixels in the figure


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is hidden; how the model fills it in is a setting of its sampler."""

    mask: str = setting(
        "lower_half", "hidden: lower_half, centre, or a .png or .npy, not zero = hidden"
    )
    num_images: int = setting(8, "held-out images, taken from the start", at_least=1)
    num_draws: int = setting(4, "samples of each image", at_least=1)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`inpaint/`: inpaint.png, a row per image, and inpaint.json with errors."""
    run, method = trained.run, trained.run.method
    if not isinstance(method, Inpainter):
        raise ValueError(f"{type(method).__name__} does not inpaint")
    training, held_out, key = run.dataset, run.held_out(), run.key("sample")
    with parallel.all_or_none():
        hidden = masks.hidden_pixels(settings.mask, training.example_shape)
    shown = held_out.images[: settings.num_images]
    true = run.scale(shown)
    number, draws = len(shown), settings.num_draws
    rows = np.repeat(np.arange(number), draws)  # an image's samples beside each other

    def fill(params, x, label, index):
        return {"x": method.inpaint(params, key, x, ~hidden, index, label)}

    arrays = (true[rows], held_out.labels[rows], np.arange(len(rows), dtype=np.int32))
    work.begin("inpainting", len(rows))
    x = work.map_batches(
        "images", fill, trained.params, arrays, batch_size=run.sampling.batch_size
    )["x"].reshape(number, draws, *true.shape[1:])
    found = nearest_neighbors(shown, training.images, 1, mask=~hidden)
    neighbor = training.images[found.indices[:, 0]]
    guesses = {
        "one sample": x[:, 0],
        f"mean of {draws} samples": x.mean(1),
        "nearest training image": run.scale(neighbor),
        "mean of the training images": np.broadcast_to(run.mean_image(), true.shape),
    }
    low, high = run.data.low, run.data.high
    errors = {
        name: image_error(np.clip(guess, low, high), true, value_range=high - low, counted=hidden)
        for name, guess in guesses.items()
    }
    columns = {
        "original": shown,
        "seen": np.where(hidden, np.uint8(_GRAY), shown),
        **{f"sample {i + 1}": run.to_pixels(x[:, i]) for i in range(draws)},
        "nearest training image": np.where(hidden, neighbor, shown),
    }
    spread = x.std(1, ddof=1).mean(where=hidden) / (high - low) if draws > 1 else None
    return Result(
        num_examples=len(rows),
        metrics={
            "split": held_out.split,
            "share_of_pixels_hidden": hidden.mean(),
            "standard_deviation_of_samples": spread,
            "error_on_hidden_pixels": {k: v._asdict() for k, v in errors.items()},
            "units": "the range of the pixel intensities",
        },
        summary=error_lines(errors, f"hidden pixels of {number} {held_out.split} images"),
        figures={"inpaint": plotting.columns_picture(columns)},
    )
