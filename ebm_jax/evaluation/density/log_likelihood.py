"""Log-likelihoods from two estimates of log Z: bounds, bits per dimension, and how to read them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.energy import EnergyFn
from ebm_jax.evaluation.density import grid2d
from ebm_jax.io import plotting
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
    """num_values: of an image. grey_step: width of a grey value in model units; 0: no images."""

    num_values: int
    grey_step: float

    def bits_per_dim(self, log_likelihood: float) -> float:
        """-log p / (d ln 2) - log2(grey_step), log p [nats] a density per model unit^d."""
        bits = -log_likelihood / (self.num_values * np.log(2))
        return float(bits - np.log2(self.grey_step))


def estimate(log_weights: np.ndarray, log_z_start: float, *, reverse: bool) -> Estimate:
    """log Z of the lowest level from the log weights of one direction.

    Args:
      log_weights: [chains]. log_z_start: of the base law. reverse: whether they lead to the base.
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


def figures(
    brackets: Sequence[Bracket], energies: Mapping[str, SplitEnergy], units: Units
) -> dict[str, Any]:
    """For the JSON: every bracket, and the likelihoods of every split by the last of them."""
    splits = {}
    for name, energy in energies.items():
        nats = log_likelihoods(energy, brackets[-1])
        splits[name] = {"energy": energy._asdict(), "log_likelihood_nats": nats}
        if units.grey_step:
            splits[name]["bits_per_dim"] = {
                "lower": units.bits_per_dim(nats["upper"]),
                "upper": units.bits_per_dim(nats["lower"]),
            }
    return {
        "log_z": [
            {
                "num_temperatures": bracket.num_temperatures,
                "forward": bracket.forward._asdict(),
                "reverse": bracket.reverse._asdict(),
                "width": bracket.width,
            }
            for bracket in brackets
        ],
        "splits": splits,
        "units": {
            "log_likelihood_nats": "mean log density of an image, per model unit^num_values",
            "num_values": units.num_values,
            "grey_step": units.grey_step,
        },
    }


def lines(
    brackets: Sequence[Bracket], energies: Mapping[str, SplitEnergy], units: Units
) -> list[str]:
    """A table for the terminal."""
    table = ["log Z in nats   temperatures        forward            reverse      width"]
    for bracket in brackets:
        cells = (
            f"{side.log_z:11.2f} +- {side.standard_error:<5.2f}"
            for side in (bracket.forward, bracket.reverse)
        )
        table.append(f"{bracket.num_temperatures:>28,}{''.join(cells)}{bracket.width:10.2f}")
    for name, energy in energies.items():
        nats = log_likelihoods(energy, brackets[-1])
        line = (
            f"{name}, {energy.num_images:,} images: log-likelihood {nats['lower']:.2f} +- "
            f"{nats['standard_error_lower']:.2f} to {nats['upper']:.2f} +- "
            f"{nats['standard_error_upper']:.2f} nats"
        )
        if units.grey_step:
            low, high = (units.bits_per_dim(nats[side]) for side in ("upper", "lower"))
            line += f", {low:.3f} to {high:.3f} bits/dim"
        table.append(line)
    return table


def statement(*, reverse_steps: int, measured: str, units: Units) -> list[str]:
    """What bounds what, in sentences. measured: of what the density is."""
    starts = "training examples"
    if reverse_steps:
        starts = f"draws of {reverse_steps:,} steps of HMC from training examples"
    lower, upper = (
        (f", and bits/dim {side} bounds" if units.grey_step else "") for side in ("lower", "upper")
    )
    return [
        f"Measured is {measured}.",
        "Forward annealing: its log Z lies below the truth on average, so that log-likelihoods by "
        f"it are upper bounds{lower}.",
        "Reverse annealing: its log Z lies above the truth on average if its starts are draws of "
        f"the model; then log-likelihoods by it are lower bounds{upper}. Its starts are {starts}: "
        "as far as these are not the model's own, it bounds nothing.",
        "A bound holds on average over runs, each with the standard error given; where few chains "
        "carry the weight (ess), that error is too small: take more temperatures.",
    ]


def crossing(bracket: Bracket) -> list[str]:
    """What to say where the two directions are the wrong way round by more than their errors."""
    error = np.hypot(bracket.forward.standard_error, bracket.reverse.standard_error)
    if not bracket.width < -3 * error:
        return []
    return [
        f"Reverse lies {-bracket.width:.1f} nats below forward: its starts are not draws of this "
        "model, whose own lie elsewhere, and there is no lower bound here."
    ]


def picture(
    brackets: Sequence[Bracket], energies: Mapping[str, SplitEnergy], units: Units
) -> np.ndarray:
    """log Z, and the log-likelihood or bits/dim of each split, against the temperatures."""
    temperatures = [bracket.num_temperatures for bracket in brackets]
    sides = {
        "forward": [bracket.forward for bracket in brackets],
        "reverse": [bracket.reverse for bracket in brackets],
    }
    log_z = plotting.Curves(
        "log Z of the lowest level",
        temperatures,
        {name: [side.log_z for side in of] for name, of in sides.items()},
        errors={name: [side.standard_error for side in of] for name, of in sides.items()},
        x_label="number of temperatures",
        y_label="nats",
        log_x=True,
    )
    bounds: dict[str, list[float]] = {}
    for name, energy in energies.items():
        both = [log_likelihoods(energy, bracket) for bracket in brackets]
        for side, way in (("upper", "forward"), ("lower", "reverse")):
            nats = [values[side] for values in both]
            bounds[f"{name}, {way}"] = (
                [units.bits_per_dim(value) for value in nats] if units.grey_step else nats
            )
    likelihood = plotting.Curves(
        "likelihood of images",
        temperatures,
        bounds,
        x_label="number of temperatures",
        y_label="bits/dim" if units.grey_step else "log-likelihood, nats",
        log_x=True,
    )
    return plotting.curves_picture([log_z, likelihood])
