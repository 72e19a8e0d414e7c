"""Figures of samples: a grid beside real images, or a density on the plane."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ebm_jax import data
from ebm_jax.evaluation.density import grid2d
from ebm_jax.evaluation.density.plane import PlaneModel
from ebm_jax.io import charts, image_grids
from ebm_jax.methods.base import Params
from ebm_jax.runs import data_facts
from ebm_jax.runs.build import Run

_COLUMNS = 6  # of states that are shown
_REACH, _CELLS, _POINTS = 1.2, 240, 2_000  # of the figure of a density


def figure(run: Run, params: Params, samples: np.ndarray) -> np.ndarray:
    """Figure of samples, in model units, and of the parameters that made them.

    Images: the samples beside as many real ones. Points of the plane: the learned density, the true
    one, and the samples. States of trajectories: histograms of their values.

    Returns:
      uint8 [H, W, 3].
    """
    if run.has_trajectories:
        return _histograms(run, samples)
    if not run.has_images:
        model = plane_model(run, params)
        return density_figure(run, model, run.to_data_units(samples))
    dataset = run.dataset
    real = dataset.images[data.batch_indices(dataset.num_examples, len(samples), 0, 0)]
    grids = image_grids.image_grid(run.to_pixels(samples)), image_grids.image_grid(real)
    return image_grids.side_by_side(*grids, ("generated", f"real: {dataset.name}"))


def _histograms(run: Run, samples: np.ndarray) -> np.ndarray:
    """Of the first values of states, beside those that followed on the contexts in truth."""
    assert run.dataset.trajectories is not None
    # Samples have the contexts of the first examples in turn, see `data_facts`.
    real = run.dataset.images[: min(len(samples), data_facts.NUM_LABELS)]
    both = {"generated": samples, f"real: {run.dataset.name}": real}
    return charts.histograms_picture(
        {
            f"{column}, z-score": {name: states[:, i] for name, states in both.items()}
            for i, column in enumerate(run.dataset.trajectories.columns[:_COLUMNS])
        }
    )


def density_figure(run: Run, model: PlaneModel, points: np.ndarray) -> np.ndarray:
    """The learned density, the true one and the first points side by side, uint8 [H, W, 3]."""
    density = data.toy_density(run.dataset.name)
    grid = grid2d.Grid(_REACH * density.bound, _CELLS)
    learned = grid2d.learned_density(
        model.energy_fn, grid, factor=model.factor, offset=model.offset
    )
    return charts.density_picture(
        learned.log_density,
        density.log_density(grid.points),
        points[:_POINTS],
        extent=grid.extent,
    )


def plane_model(run: Run, params: Params) -> PlaneModel:
    """The density of points of the plane that the energy of level 0 defines, in the data's units.

    Its variable is x_0 = abar_0 x + sbar_0 eps, x the data in model units. Outside the box of a
    model that has one the density is zero.
    """
    densities = run.method.densities(params)
    a_bar, sigma_bar = float(densities.a_bar[0]), float(densities.sigma_bar[0])
    energy_fn, box = densities.energy(jnp.zeros((), jnp.int32)), densities.base.box

    def energy_in_box(x: Any) -> Any:
        if box is None:
            return energy_fn(x)
        is_inside = jnp.all((x >= box[0]) & (x <= box[1]), axis=-1)
        return jnp.where(is_inside, energy_fn(x), jnp.inf)

    stored = run.dataset.value_range
    at_zero, at_one = (
        data.scale_points(x, stored, run.data.low, run.data.high) for x in (0.0, 1.0)
    )
    return PlaneModel(
        energy_in_box,
        factor=a_bar * (at_one - at_zero),
        offset=a_bar * at_zero,
        noise_std=sigma_bar / a_bar / (at_one - at_zero),
    )
