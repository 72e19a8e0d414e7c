"""The density that a model of points in the plane has learned, against the true one, on a grid.

In the plane a sum over cells gives what is out of reach elsewhere: the normalizing constant, hence
the learned density itself, and its divergence from the truth.

A model's variable y is an affine function of the data's x, y = offset + factor * x. Densities here
are of x, in the data's own units:

    q(x) = factor^2 exp(-E(offset + factor x)) / Z,   Z = integral of exp(-E(y)) over the grid.

A divergence is the same in either units; entropies and log-likelihoods are not.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

EnergyFn = Callable[[jax.Array], jax.Array]


class Grid(NamedTuple):
    """num_cells x num_cells square cells over [-half_width, half_width]^2."""

    half_width: float
    num_cells: int

    @property
    def cell_area(self) -> float:
        """Area of one cell."""
        return (2 * self.half_width / self.num_cells) ** 2

    @property
    def points(self) -> np.ndarray:
        """Centers of the cells, float64 [n, n, 2]; point [i, j] has the j-th x and the i-th y."""
        along = self.half_width * ((2 * np.arange(self.num_cells) + 1) / self.num_cells - 1)
        return np.stack(np.meshgrid(along, along), axis=-1)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x from, x to, y from, y to)."""
        half = self.half_width
        return (-half, half, -half, half)


class LearnedDensity(NamedTuple):
    """log_density: log q at the cells' centers, float64 [n, n]. log_z: log Z of the energy of y."""

    log_density: np.ndarray
    log_z: float


class Comparison(NamedTuple):
    """A learned density q beside the true p, by the midpoint rule on a grid.

    kl: KL(p || q) in nats. total_variation: half the integral of |p - q|, 0 to 1.
    entropy: of p in nats. expected_log_likelihood: of log q under p, in nats; kl is minus the sum
    of the two. true_mass: of p on the grid: how far it is from 1 is an error of all the others.
    """

    kl: float
    total_variation: float
    entropy: float
    expected_log_likelihood: float
    true_mass: float


def learned_density(
    energy_fn: EnergyFn, grid: Grid, *, factor: float = 1.0, offset: float = 0.0
) -> LearnedDensity:
    """The density of x that an energy of y = offset + factor * x defines, normalized on a grid.

    Args:
      energy_fn: E(y), [batch, 2] -> [batch]; +inf where the density is 0.
      grid: cells of x. It should reach well beyond the data: mass outside is not counted.
      factor: above 0. offset: of both coordinates.
    Raises:
      ValueError: for a factor that is not positive, or energies that are not finite: a NaN, -inf,
        or +inf everywhere.
    """
    if not factor > 0:
        raise ValueError(f"factor: expected > 0, got {factor}")
    y = jnp.asarray(offset + factor * grid.points, jnp.float32)
    energy = np.asarray(jax.jit(lambda y: jax.lax.map(energy_fn, y))(y), np.float64)
    is_wrong = ~np.isfinite(energy) & ~(np.isposinf(energy) & np.any(np.isfinite(energy)))
    if np.any(is_wrong):
        raise ValueError(
            f"{np.sum(is_wrong)} of {energy.size} energies on the grid are not finite: "
            "train on, or with a smaller learning rate, before measuring the density"
        )
    log_mass = logsumexp(-energy) + np.log(grid.cell_area)  # of exp(-E), over x
    return LearnedDensity(-energy - log_mass, float(log_mass + 2 * np.log(factor)))


def compare(log_density: np.ndarray, true_log_density: np.ndarray, grid: Grid) -> Comparison:
    """Compares log q and log p at the centers of a grid's cells, both [n, n]; p may be zero."""
    true = np.exp(true_log_density)
    inside = true > 0
    mass = true[inside] * grid.cell_area
    entropy = -np.sum(mass * true_log_density[inside])
    expected = np.sum(mass * log_density[inside])
    return Comparison(
        kl=float(-entropy - expected),
        total_variation=float(np.sum(np.abs(true - np.exp(log_density))) * grid.cell_area / 2),
        entropy=float(entropy),
        expected_log_likelihood=float(expected),
        true_mass=float(np.sum(mass)),
    )


def box_masses(log_density: np.ndarray, grid: Grid, num_boxes: int) -> np.ndarray:
    """Mass of a density on the grid's cells [n, n] in num_boxes x num_boxes boxes: [boxes, boxes].

    Raises:
      ValueError: where the boxes do not divide the cells.
    """
    if grid.num_cells % num_boxes:
        raise ValueError(f"{num_boxes} boxes do not divide {grid.num_cells} cells")
    per_box = grid.num_cells // num_boxes
    mass = np.exp(log_density) * grid.cell_area
    return mass.reshape(num_boxes, per_box, num_boxes, per_box).sum((1, 3))


def sample_distance(points: np.ndarray, masses: np.ndarray, grid: Grid) -> float:
    """Total variation distance, 0 to 1, of points [n, 2] from the masses of boxes on a grid.

    Half the sum over boxes of |share of the points - mass|; points beyond the grid count as a box
    of their own, of mass 0. It is not 0 for exact draws either: compare with such.
    """
    edges = np.linspace(-grid.half_width, grid.half_width, len(masses) + 1)
    counts, *_ = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))
    shares = counts / len(points)
    return float(np.sum(np.abs(shares - masses)) / 2 + (1 - shares.sum()) / 2)
