"""Log-likelihoods from two estimates of log Z: bounds, and bits per dimension."""

from typing import NamedTuple

import numpy as np

from ebm_jax.energy import EnergyFn
from ebm_jax.evaluation.density import grid2d
from ebm_jax.samplers import summarize_weights

_REACH, _CELLS = 1.5, 480  # of the grid on the plane


class Estimate(NamedTuple):
    """log Z of a level's exp(-energy), in nats; standard_error, ess: see `samplers.AISResult`."""

    log_z: float
    standard_error: float
    ess: float


class Bracket(NamedTuple):
    """Both directions of annealing with the same number of temperatures."""

    num_temperatures: int
    forward: Estimate
    reverse: Estimate

    @property
    def width(self) -> float:
        """Nats between the two, 0 where annealing is perfect."""
        return self.reverse.log_z - self.forward.log_z


class SplitEnergy(NamedTuple):
    """Energies of a split's images at the lowest level, in nats: mean, its standard error."""

    mean: float
    standard_error: float
    num_images: int


class Units(NamedTuple):
    """num_values: of an image. bin_width: of a pixel intensity, model units; 0: no images."""

    num_values: int
    bin_width: float

    def bits_per_dim(self, log_likelihood: float) -> float:
        """-log p / (d ln 2) - log2(bin_width), log p [nats] a density per model unit^d."""
        bits = -log_likelihood / (self.num_values * np.log(2))
        return float(bits - np.log2(self.bin_width))


def estimate(log_weights: np.ndarray, log_z_start: float, *, reverse: bool) -> Estimate:
    """log Z of the lowest level from the log weights of one direction.

    Args:
      log_weights: [chains]. log_z_start: of the base. reverse: whether they lead to the base.
    """
    found = summarize_weights(np.asarray(log_weights, np.float32))
    ratio = -float(found.log_z) if reverse else float(found.log_z)
    return Estimate(log_z_start + ratio, float(found.standard_error), float(found.ess))


def log_z_on_grid(energy_fn: EnergyFn, low: float, high: float) -> float:
    """log of the integral of exp(-E) over the plane, by the midpoint rule.

    The grid reaches half as far again as the square [low, high]^2 of the data.
    """
    grid = grid2d.Grid(_REACH * (high - low) / 2, _CELLS)
    return grid2d.learned_density(energy_fn, grid, offset=(low + high) / 2).log_z


def split_energy(energies: np.ndarray) -> SplitEnergy:
    """Mean and standard error of energies [n]."""
    energies = np.asarray(energies, np.float64)
    return SplitEnergy(
        float(energies.mean()),
        float(energies.std(ddof=1) / np.sqrt(len(energies))) if len(energies) > 1 else float("nan"),
        len(energies),
    )


def log_likelihoods(energy: SplitEnergy, bracket: Bracket) -> dict[str, float]:
    """Mean log-likelihood of a split in nats: 'lower' by reverse annealing, 'upper' by forward.

    Errors of energy and log Z are independent, and `standard_error_*` joins them.
    """
    values = {}
    for name, side in (("lower", bracket.reverse), ("upper", bracket.forward)):
        values[name] = -energy.mean - side.log_z
        values[f"standard_error_{name}"] = float(
            np.hypot(energy.standard_error, side.standard_error)
        )
    return values
