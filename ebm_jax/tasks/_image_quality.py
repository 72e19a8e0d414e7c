"""Image quality and errors as tables, as numbers for JSON, and as a picture."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_jax import data
from ebm_jax.data.dataset import Dataset
from ebm_jax.evaluation.fidelity.classifier import ClassifierSummary
from ebm_jax.evaluation.images.errors import ImageError
from ebm_jax.evaluation.images.quality import FrechetDistances, ImageQuality
from ebm_jax.io import charts, image_grids

_MAX_SHOWN = 100  # images of each grid


def lines(found: ImageQuality, name: str) -> list[str]:
    """The quality of images of one data set as a table, with what was measured on what."""
    if found.pixel is None:
        table = [f"Frechet distance over pixels: not measured, as {found.why_undefined}"]
    else:
        to = f"to the {found.pixel.num_training:,} training images of {name}"
        table = _distance_lines(found.pixel, f"Frechet distance over pixels, {to}")
    if found.samples is not None:
        assert found.held_out is not None  # all three at once
        assert found.num_training is not None
        table += _classifier_lines(found.samples, found.held_out, found.num_training)
    if found.logits is not None:
        table += _distance_lines(found.logits, "Frechet distance over the classifier's logits")
    return table


def metrics(found: ImageQuality, training: Dataset, held_out: Dataset) -> dict[str, Any]:
    """The quality of images for the JSON, with what was measured on what."""
    distances = {"over_pixels": found.pixel, "over_class_scores": found.logits}
    values: dict[str, Any] = {
        "images": "in [-1, 1]; samples neither clipped nor rounded",
        "share_of_sample_values_outside": found.share_outside,
        "real": {"name": training.name, "training": training.split, "held_out": held_out.split},
        "frechet_distance_to_training": {
            name: distance and distance._asdict() for name, distance in distances.items()
        },
    }
    if found.why_undefined is not None:
        values["frechet_distance_not_measured"] = found.why_undefined
    if found.samples is not None:
        assert found.held_out is not None
        values["classifier"] = {
            "kind": "multinomial logistic regression on radial basis functions of training images",
            "scikit_learn": importlib.metadata.version("scikit-learn"),
            "num_training": found.num_training,
            "samples": found.samples._asdict(),
            "held_out": found.held_out._asdict(),
        }
    return values


def level_metrics(found: ImageQuality) -> dict[str, Any]:
    """Of images that were sampled down from a level, for the JSON."""
    distances = {"over_pixels": found.pixel, "over_class_scores": found.logits}
    values: dict[str, Any] = {name: one and one.samples for name, one in distances.items()}
    if found.samples is not None:
        values["classifier"] = found.samples._asdict()
    return values


def level_lines(found: Mapping[int, ImageQuality], number: int) -> list[str]:
    """A table of levels that held-out images were sampled down from."""
    if not found:
        return []
    table = [
        f"{number:,} held-out images, sampled down from a level",
        f"  {'':<8}"
        + "".join(f"{name:>18}" for name in ("over pixels", "over logits", "confidence")),
    ]
    for level, one in found.items():
        values = (
            one.pixel and one.pixel.samples,
            one.logits and one.logits.samples,
            one.samples and one.samples.median_confidence,
        )
        shown = "".join(f"{'-' if v is None else f'{v:.3f}':>18}" for v in values)
        table.append(f"  level {level:<2}{shown}")
    return table


def figure(found: ImageQuality, generated: np.ndarray, held_out: Dataset) -> np.ndarray:
    """Samples and real images side by side, shares of the classes, and the table.

    Args:
      generated: the samples, uint8 [n, height, width, channels].
    Returns:
      uint8 [height, width, 3].
    """
    shown = min(_MAX_SHOWN, len(generated), held_out.num_examples)
    some_real = held_out.images[data.batch_indices(held_out.num_examples, shown, 0, 0)]
    bars = {}
    if found.samples is not None:
        assert found.held_out is not None
        bars = {
            "generated": found.samples.class_share,
            "real, held out": found.held_out.class_share,
        }
    return charts.grids_picture(
        {
            f"generated: {shown} of {len(generated):,}": image_grids.image_grid(generated[:shown]),
            f"real, held out: {shown} of {held_out.num_examples:,}": image_grids.image_grid(
                some_real
            ),
        },
        bars=bars,
        x_label="class, as the classifier has it",
        y_label="fraction of the images",
        text=lines(found, held_out.name),
    )


def error_lines(errors: dict[str, ImageError], title: str) -> list[str]:
    """Errors as a table, one method per line."""
    return [
        f"{title:<34}{'RMSE':>16}{'PSNR':>10}",
        *(
            f"  {name:<32}{error.rmse:8.4f} ± {error.standard_error:.4f}{error.psnr:7.2f} dB"
            for name, error in errors.items()
        ),
    ]


def _distance_lines(distance: FrechetDistances, title: str) -> list[str]:
    rows = [(f"{distance.num_samples:,} samples", distance.samples)]
    if distance.samples_as_held_out is not None and distance.num_samples > distance.num_held_out:
        rows.append((f"first {distance.num_held_out:,} of them", distance.samples_as_held_out))
    rows.append((f"{distance.num_held_out:,} real held-out images", distance.floor))
    return [title, *(f"  {what:<28}{value:10.3f}" for what, value in rows)]


def _classifier_lines(
    samples: ClassifierSummary, held_out: ClassifierSummary, num_training: int
) -> list[str]:
    def row(what: str, *values: str) -> str:
        return f"  {what:<20}" + "".join(f"{value:>18}" for value in values)

    def rarest(summary: ClassifierSummary) -> str:
        rare = summary.class_share.argmin()
        return f"{summary.class_share[rare]:.1%} (class {rare})"

    both = (samples, held_out)
    table = [
        f"classifier trained on {num_training:,} of these images",
        row("", "samples", "held out"),
        row("median confidence", *(f"{v.median_confidence:.3f}" for v in both)),
        row("rarest class", *(rarest(v) for v in both)),
    ]
    if held_out.accuracy is not None:
        table.append(row("accuracy", "-", f"{held_out.accuracy:.3f}"))
    return table
