"""--mode=inpaint: hidden pixels of held-out images sampled by the model given the others."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.images import masks
from ebm_jax.evaluation.images.errors import ImageError, image_error
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Inpainter
from ebm_jax.methods.registry import that_do
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
    num_images: int = setting(
        8, "of held-out and of training images each, taken from the start", at_least=1
    )
    num_draws: int = setting(4, "samples of each image", at_least=1)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`inpaint/`: inpaint.png, a row per image, and inpaint.json with errors."""
    run, method = trained.run, trained.run.method
    if not isinstance(method, Inpainter):
        raise ValueError(
            f"--mode=inpaint: expected a method that inpaints ({that_do(Inpainter)}), got "
            f"{run.config.method.name}"
        )
    training, held_out, key = run.dataset, run.held_out(), run.key("sample")
    with parallel.all_or_none():
        hidden = masks.hidden_pixels(settings.mask, training.example_shape)
    draws = settings.num_draws
    firsts = {  # of either split: an error that is less in training is what was learned by heart
        name: (split.images[: settings.num_images], split.labels[: settings.num_images])
        for name, split in (("images", held_out), ("training_images", training))
    }
    shown = firsts["images"][0]
    number = len(shown)

    def fill(params, x, label, index):
        return {"x": method.inpaint(params, key, x, ~hidden, index, label)}

    work.begin("inpainting", draws * sum(len(images) for images, _ in firsts.values()))
    true, samples = {}, {}
    for name, (images, labels) in firsts.items():
        true[name] = run.scale(images)
        rows = np.repeat(np.arange(len(images)), draws)  # an image's samples beside each other
        arrays = (true[name][rows], labels[rows], np.arange(len(rows), dtype=np.int32))
        samples[name] = work.map_batches(
            name, fill, trained.params, arrays, batch_size=run.sampling.batch_size
        )["x"].reshape(len(images), draws, *images.shape[1:])
    x = samples["images"]
    found = nearest_neighbors(shown, training.images, 1, mask=~hidden)
    neighbor = training.images[found.indices[:, 0]]
    low, high, mean = run.data.low, run.data.high, run.mean_image()

    def errors_of(name: str, others: Mapping[str, np.ndarray]) -> dict[str, ImageError]:
        guesses = {
            "one sample": samples[name][:, 0],
            f"mean of {draws} samples": samples[name].mean(1),
            **others,
            "mean of the training images": np.broadcast_to(mean, true[name].shape),
        }
        return {
            title: image_error(
                np.clip(guess, low, high), true[name], value_range=high - low, counted=hidden
            )
            for title, guess in guesses.items()
        }

    errors = errors_of("images", {"nearest training image": run.scale(neighbor)})
    of_training = errors_of("training_images", {})
    columns = {
        "original": shown,
        "seen": np.where(hidden, np.uint8(_GRAY), shown),
        **{f"sample {i + 1}": run.to_pixels(x[:, i]) for i in range(draws)},
        "nearest training image": np.where(hidden, neighbor, shown),
    }
    spread = x.std(1, ddof=1).mean(where=hidden) / (high - low) if draws > 1 else None
    return Result(
        num_examples=number * draws,
        metrics={
            "split": held_out.split,
            "share_of_pixels_hidden": hidden.mean(),
            "standard_deviation_of_samples": spread,
            "error_on_hidden_pixels": {k: v._asdict() for k, v in errors.items()},
            "error_on_hidden_pixels_of_training_images": {
                k: v._asdict() for k, v in of_training.items()
            },
            "units": "the range of the pixel intensities",
        },
        summary=[
            *error_lines(errors, f"hidden pixels of {number} {held_out.split} images"),
            *error_lines(of_training, f"of the first {len(true['training_images'])} to train on"),
        ],
        figures={"inpaint": image_grids.columns_picture(columns)},
    )
