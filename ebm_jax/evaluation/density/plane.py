"""Models of points in the plane: the learned density against the true one, and the samples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.data.sources.toy2d import ToyDensity
from ebm_jax.evaluation.density import grid2d

# The grid reaches half as far again as the data, so that mass out there is noticed. An edge of the
# checkerboard's squares is an edge of cells and of boxes.
_REACH = 1.5
_CELLS = 480
NUM_BOXES = 24


class PlaneModel(NamedTuple):
    """A density model of points of the plane.

    energy_fn: of its variable y = offset + factor * x, [batch, 2] -> [batch]; x is in the data's
    units. noise_std: in the data's units, of Gaussian noise that the model learns with the data.
    """

    energy_fn: Callable[[Any], Any]
    factor: float
    offset: float
    noise_std: float


class DensityFit(NamedTuple):
    """How well a density is learned; densities and lengths in the data's units.

    comparison: of the learned with the true density. mass_outside: of the learned one, outside the
    square that holds the data. log_z: log of the integral of exp(-E(y)) over y. sample_distance,
    exact_distance: total variation over boxes between the true masses and num_samples samples, or
    as many exact samples.
    """

    grid: grid2d.Grid
    comparison: grid2d.Comparison
    mass_outside: float
    log_z: float
    sample_distance: float
    exact_distance: float
    num_samples: int
    noise_std: float


def check_number(num_samples: int, num_exact: int) -> None:
    """Raises ValueError where there are fewer exact points to compare with than samples."""
    if num_exact < num_samples:
        raise ValueError(
            f"num_samples: expected at most {num_exact}, the held-out points to compare with, got "
            f"{num_samples}"
        )


def density_fit(
    samples: np.ndarray, exact: np.ndarray, model: PlaneModel, density: ToyDensity
) -> DensityFit:
    """Compares a model and its samples with the density that the data come from.

    Args:
      samples: [n, 2] in the data's units. exact: samples of the density itself, at least n.
    Raises:
      ValueError: for fewer exact samples than samples, energies or samples that are not finite.
    """
    check_number(len(samples), len(exact))
    if not np.all(np.isfinite(samples)):
        bad = np.sum(~np.isfinite(samples).all(1))
        raise ValueError(f"{bad} of {len(samples)} samples have non-finite values")
    grid = grid2d.Grid(_REACH * density.bound, _CELLS)
    true_log_density = density.log_density(grid.points)
    learned = grid2d.learned_density(
        model.energy_fn, grid, factor=model.factor, offset=model.offset
    )
    outside = np.abs(grid.points).max(-1) > density.bound
    masses = grid2d.box_masses(true_log_density, grid, NUM_BOXES)
    distances = (
        grid2d.sample_distance(points, masses, grid) for points in (samples, exact[: len(samples)])
    )
    return DensityFit(
        grid,
        grid2d.compare(learned.log_density, true_log_density, grid),
        float(np.exp(learned.log_density[outside]).sum() * grid.cell_area),
        learned.log_z,
        *distances,
        num_samples=len(samples),
        noise_std=model.noise_std,
    )
