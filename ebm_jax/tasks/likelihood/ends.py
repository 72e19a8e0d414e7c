"""Where annealing ends up: its chains beside data, by their energies and their nearest images.

If the energies are those of data that training saw, chains that annealing weighs end where data
are. A mode that short chains of training never visit has chains at energies of no data.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.io import image_grids
from ebm_jax.runs.build import Run

_SHOWN = 8  # of the heaviest chains
_QUANTILE = 0.01  # of the energies of data, below which lies as much of them
_MOST_BELOW = 0.5  # of the weight, before it is said to be no data


class Ends(NamedTuple):
    """x: float [chains, ...], at the noise of level 0. energies, log_weights: [chains], in nats."""

    x: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """[chains], which add up to 1."""
        weights = np.exp(self.log_weights - np.max(self.log_weights))
        return weights / weights.sum()


class Found(NamedTuple):
    """What there is to say of the ends; shares are of the weight.

    below, above: at energies below and above the 1 % and 99 % quantiles of data's.
    heaviest: of the heaviest chain. distance_over_data: to the nearest training image, the median
    over that of held-out images; None of points.
    """

    mean_energy: float
    data_energy: float
    below: float
    above: float
    heaviest: float
    distance_over_data: float | None


def compare(
    ends: Ends, data_energies: np.ndarray, distances: np.ndarray | None, of_data: np.ndarray | None
) -> Found:
    """Args: distances, of_data: to the nearest training image, of the ends and of held-out data."""
    weights = ends.weights
    low, high = np.quantile(data_energies, [_QUANTILE, 1 - _QUANTILE])
    ratio = None
    if distances is not None and of_data is not None:
        order = np.argsort(distances)
        middle = np.searchsorted(np.cumsum(weights[order]), 0.5)
        ratio = float(distances[order[middle]] / np.median(of_data))
    return Found(
        float(weights @ ends.energies),
        float(np.mean(data_energies)),
        float(weights[ends.energies < low].sum()),
        float(weights[ends.energies > high].sum()),
        float(weights.max()),
        ratio,
    )


def lines(found: Found) -> list[str]:
    """In words."""
    said = (
        f"forward annealing ends at a mean energy of {found.mean_energy:.1f} nats, where held-out "
        f"data have {found.data_energy:.1f}; {found.below:.0%} of the weight is at energies below "
        f"those of 99 % of the data, {found.above:.0%} above; the heaviest chain has "
        f"{found.heaviest:.0%} of it"
    )
    if found.distance_over_data is not None:
        said += (
            f"; the nearest training image is {found.distance_over_data:.2f} times as far as from "
            "held-out images (annealed.png)"
        )
    if found.below > _MOST_BELOW:
        said += (
            ": the model's mass is in modes that are no data, and its likelihoods are of these as "
            "much as of the data"
        )
    return [said]


def metrics(found: Found) -> dict[str, Any]:
    """For the JSON."""
    return {
        **found._asdict(),
        "is_spurious": found.below > _MOST_BELOW,
        "units": "energies in nats; shares of the weight of forward annealing",
    }


def where(
    run: Run, ends: Ends, data_energies: np.ndarray, noisy: np.ndarray, a_bar: float
) -> tuple[Found, Mapping[str, np.ndarray]]:
    """(what is found, pictures: the heaviest chains beside their nearest training images).

    Args:
      data_energies, noisy: of held-out data at the noise of level 0, [n] and [n, ...].
      a_bar: of level 0, by which x and noisy are divided before they are compared with images.
    """
    if not run.has_images:
        return compare(ends, data_energies, None, None), {}
    scale, offset = run.intensity_scale(run.data.low, run.data.high)
    of_ends, of_data = (
        nearest_neighbors(x / a_bar, run.dataset.images, 1, scale=scale, offset=offset)
        for x in (ends.x, noisy)
    )
    found = compare(ends, data_energies, of_ends.distances[:, 0], of_data.distances[:, 0])
    heaviest = np.argsort(ends.log_weights)[::-1][:_SHOWN]
    columns = {
        "heaviest chains": run.to_pixels(ends.x[heaviest] / a_bar),
        "nearest training image": run.dataset.images[of_ends.indices[heaviest, 0]],
        "held-out, same noise": run.to_pixels(noisy[:_SHOWN] / a_bar),
    }
    rows = min(map(len, columns.values()))
    shown = {title: images[:rows] for title, images in columns.items()}
    return found, {"annealed": image_grids.columns_picture(shown)}
