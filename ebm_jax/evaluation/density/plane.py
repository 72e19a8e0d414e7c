"""A model of points in the plane judged: its density against the true one, and its samples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.data.sources.toy2d import ToyDensity
from ebm_jax.evaluation.density import grid2d
from ebm_jax.io import plotting

# The grid reaches half as far again as the data, so that mass out there is noticed. An edge of the
# checkerboard's squares is an edge of cells and of boxes.
_REACH = 1.5
_CELLS = 480
_BOXES = 24
_SHOWN_REACH, _SHOWN_CELLS, _SHOWN_SAMPLES = 1.2, 240, 2_000


class PlaneModel(NamedTuple):
    """A density model of points of the plane.

    energy_fn: of its variable y = offset + factor * x, [batch, 2] -> [batch]; x is in the data's
    units. noise_std: in the data's units, of normal noise that the model learns with the data.
    """

    energy_fn: Callable[[Any], Any]
    factor: float
    offset: float
    noise_std: float


class Judgement(NamedTuple):
    """What `judge` found, densities and lengths in the data's units.

    comparison: of the learned with the true density. mass_outside: of the learned one, outside the
    square that holds the data. log_z: log of the integral of exp(-E(y)) over y. sample_distance,
    exact_distance: total variation over boxes between the true masses and num_samples samples, or
    as many exact draws.
    """

    grid: grid2d.Grid
    comparison: grid2d.Comparison
    mass_outside: float
    log_z: float
    sample_distance: float
    exact_distance: float
    num_samples: int
    noise_std: float


def judge(
    samples: np.ndarray, exact: np.ndarray, model: PlaneModel, density: ToyDensity
) -> Judgement:
    """Compares a model and its samples with the density that the data come from.

    Args:
      samples: [n, 2] in the data's units. exact: draws from the density itself, at least n.
    Raises:
      ValueError: for fewer exact draws than samples, energies or samples that are not finite.
    """
    if len(exact) < len(samples):
        raise ValueError(
            f"{len(samples)} samples and only {len(exact)} held-out points to compare with: "
            f"write evaluation.num_samples of at most {len(exact)}"
        )
    if not np.all(np.isfinite(samples)):
        bad = np.sum(~np.isfinite(samples).all(1))
        raise ValueError(f"{bad} of {len(samples)} samples have non-finite values")
    grid = grid2d.Grid(_REACH * density.bound, _CELLS)
    true_log_density = density.log_density(grid.points)
    learned = grid2d.learned_density(
        model.energy_fn, grid, factor=model.factor, offset=model.offset
    )
    outside = np.abs(grid.points).max(-1) > density.bound
    masses = grid2d.box_masses(true_log_density, grid, _BOXES)
    distances = (
        grid2d.sample_distance(points, masses, grid) for points in (samples, exact[: len(samples)])
    )
    return Judgement(
        grid,
        grid2d.compare(learned.log_density, true_log_density, grid),
        float(np.exp(learned.log_density[outside]).sum() * grid.cell_area),
        learned.log_z,
        *distances,
        num_samples=len(samples),
        noise_std=model.noise_std,
    )


def lines(found: Judgement, name: str) -> list[str]:
    """A judgement as a table."""
    c, box = found.comparison, 2 * found.grid.half_width / _BOXES
    return [
        f"learned density of {name} plus noise of {found.noise_std:.3g}, against the true one",
        f"  KL(true || learned)      {c.kl:.4f} nats",
        f"  total variation          {c.total_variation:.4f}",
        f"  E_true[log learned]      {c.expected_log_likelihood:.4f} nats",
        f"  E_true[log true]         {-c.entropy:.4f} nats",
        f"  learned mass outside     {found.mass_outside:.4f}",
        f"samples, total variation over boxes of {box:.3g}",
        f"  {found.num_samples:,} samples".ljust(27) + f"{found.sample_distance:.4f}",
        "  as many exact draws".ljust(27) + f"{found.exact_distance:.4f}",
    ]


def figures(found: Judgement, name: str) -> dict[str, Any]:
    """A judgement for the JSON, with what was measured how."""
    grid = found.grid
    return {
        "density": name,
        "units": "nats, and lengths of the data as defined, not as scaled for the model",
        "learned": {
            "of": "data plus normal noise, the lowest noise level; true density: without noise",
            "noise_std": found.noise_std,
            "kl_true_to_learned": found.comparison.kl,
            "total_variation": found.comparison.total_variation,
            "expected_log_likelihood": found.comparison.expected_log_likelihood,
            "entropy_of_true": found.comparison.entropy,
            "mass_outside_data_square": found.mass_outside,
            "log_z": found.log_z,
        },
        "grid": {
            "half_width": grid.half_width,
            "num_cells": [grid.num_cells, grid.num_cells],
            "true_mass": found.comparison.true_mass,
        },
        "samples": {
            "total_variation": found.sample_distance,
            "of_as_many_exact_draws": found.exact_distance,
            "num_boxes": [_BOXES, _BOXES],
        },
    }


def picture(samples: np.ndarray, model: PlaneModel, density: ToyDensity) -> np.ndarray:
    """The learned density, the true one and the first samples side by side, uint8 [H, W, 3]."""
    grid = grid2d.Grid(_SHOWN_REACH * density.bound, _SHOWN_CELLS)
    learned = grid2d.learned_density(
        model.energy_fn, grid, factor=model.factor, offset=model.offset
    )
    return plotting.density_picture(
        learned.log_density,
        density.log_density(grid.points),
        samples[:_SHOWN_SAMPLES],
        extent=grid.extent,
    )
