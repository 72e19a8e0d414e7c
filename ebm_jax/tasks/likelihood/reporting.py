"""Likelihoods as tables, sentences, numbers for JSON, and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.log_likelihood import (
    Bracket,
    SplitEnergy,
    Units,
    log_likelihoods,
)
from ebm_jax.io import charts


def metrics(
    brackets: Sequence[Bracket], energies: Mapping[str, SplitEnergy], units: Units
) -> dict[str, Any]:
    """For the JSON: every bracket, and the likelihoods of every split by the last of them."""
    splits = {}
    for name, energy in energies.items():
        nats = log_likelihoods(energy, brackets[-1])
        splits[name] = {"energy": energy._asdict(), "log_likelihood_nats": nats}
        if units.bin_width:
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
    }


def units_metrics(units: Units) -> dict[str, Any]:
    """For the JSON."""
    return {
        "log_likelihood_nats": "mean log density of an image, per model unit^num_values",
        "num_values": units.num_values,
        "bin_width": units.bin_width,
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
        if units.bin_width:
            low, high = (units.bits_per_dim(nats[side]) for side in ("upper", "lower"))
            line += f", {low:.3f} to {high:.3f} bits/dim"
        table.append(line)
    return table


def meaning(starts: str, units: Units) -> list[str]:
    """What bounds what, in sentences; starts: of reverse annealing, `reverse_starts.words`."""
    lower, upper = (
        (f", and bits/dim {side} bounds" if units.bin_width else "") for side in ("lower", "upper")
    )
    return [
        "Forward annealing: its log Z lies below the truth on average, so that log-likelihoods by "
        f"it are upper bounds{lower}.",
        "Reverse annealing: its log Z lies above the truth on average if its starts are samples of "
        f"the model; then log-likelihoods by it are lower bounds{upper}. {starts}",
        "A bound holds on average over runs, each with the standard error given; where few chains "
        "carry the weight (ess), that error is too small: take more temperatures.",
    ]


def crossing(bracket: Bracket) -> list[str]:
    """What to say where the two directions are inverted by more than three standard errors."""
    error = np.hypot(bracket.forward.standard_error, bracket.reverse.standard_error)
    if not bracket.width < -3 * error:
        return []
    return [
        f"Reverse lies {-bracket.width:.1f} nats below forward: its starts are not samples of this "
        "model, whose own lie elsewhere, and there is no lower bound here."
    ]


def claimed_metrics(log_z: float, energies: Mapping[str, float], units: Units) -> dict[str, Any]:
    """For the JSON: log Z as the model claims it, and what follows; energies: means by split."""
    nats = {name: -energy - log_z for name, energy in energies.items()}
    metrics: dict[str, Any] = {"log_z": log_z, "log_likelihood_nats": nats}
    if units.bin_width:
        metrics["bits_per_dim"] = {name: units.bits_per_dim(value) for name, value in nats.items()}
    return metrics


def claimed_lines(claimed: Mapping[str, Any]) -> list[str]:
    """A line for the terminal."""
    values = [
        f"{name} {nats:.2f} nats"
        + (f", {claimed['bits_per_dim'][name]:.3f} bits/dim" if "bits_per_dim" in claimed else "")
        for name, nats in claimed["log_likelihood_nats"].items()
    ]
    return [f"the model claims a log Z of {claimed['log_z']:.2f}: {'; '.join(values)}"]


def baseline_metrics(baselines: Sequence[Baseline], units: Units) -> list[dict[str, Any]]:
    """For the JSON: the exact likelihoods of the fitted densities."""
    found = []
    for baseline in baselines:
        splits = {
            name: {
                "log_likelihood_nats": value.mean,
                "standard_error": value.standard_error,
                **({"bits_per_dim": units.bits_per_dim(value.mean)} if units.bin_width else {}),
            }
            for name, value in baseline.likelihood.items()
        }
        found.append({"num_components": baseline.num_components, "splits": splits})
    return found


def baseline_lines(baselines: Sequence[Baseline], units: Units) -> list[str]:
    """A line for each fitted density."""
    lines = []
    for baseline in baselines:
        values = [
            f"{name} {value.mean:.2f} +- {value.standard_error:.2f} nats"
            + (f", {units.bits_per_dim(value.mean):.3f} bits/dim" if units.bin_width else "")
            for name, value in baseline.likelihood.items()
        ]
        lines.append(f"{baseline.name}, exact: {'; '.join(values)}")
    return lines


class ThroughConditionals(NamedTuple):
    """The bound on a split's likelihood through the conditionals, by both ways of annealing.

    widths: of log Z's brackets, mean over the images, [levels].
    """

    lower: Likelihood
    upper: Likelihood
    widths: list[float]
    num_images: int


def conditional_metrics(bounds: Mapping[str, ThroughConditionals], units: Units) -> dict[str, Any]:
    """For the JSON."""
    return {
        name: {
            "num_images": bound.num_images,
            "log_likelihood_nats": {
                "lower": bound.lower.mean,
                "upper": bound.upper.mean,
                "standard_error_lower": bound.lower.standard_error,
                "standard_error_upper": bound.upper.standard_error,
            },
            **(
                {
                    "bits_per_dim": {
                        "lower": units.bits_per_dim(bound.upper.mean),
                        "upper": units.bits_per_dim(bound.lower.mean),
                    }
                }
                if units.bin_width
                else {}
            ),
            "widths_of_log_z_by_level": bound.widths,
        }
        for name, bound in bounds.items()
    }


def conditional_lines(bounds: Mapping[str, ThroughConditionals], units: Units) -> list[str]:
    """A line for each split."""
    lines = []
    for name, bound in bounds.items():
        sides = " to ".join(
            f"{side.mean:.2f} +- {side.standard_error:.2f}" for side in (bound.lower, bound.upper)
        )
        line = f"through the conditionals, {name}, {bound.num_images:,} images: {sides} nats"
        if units.bin_width:
            low, high = (units.bits_per_dim(side.mean) for side in (bound.upper, bound.lower))
            line += f", {low:.3f} to {high:.3f} bits/dim"
        lines.append(line)
    return lines


def margins(
    bracket: Bracket,
    energies: Mapping[str, np.ndarray],
    baselines: Sequence[Baseline],
    split: str,
) -> list[dict[str, float]]:
    """Nats that a model has more than each fitted density on a split, as `log_likelihoods`.

    energies: [n] of the images that the baselines were evaluated on, by split.
    """
    found = []
    for baseline in baselines:
        more = baseline.margin(split, energies[split])
        as_energy = SplitEnergy(-more.mean, more.standard_error, len(energies[split]))
        found.append(log_likelihoods(as_energy, bracket))
    return found


def verdict(
    bracket: Bracket,
    found: Sequence[Mapping[str, float]],
    baselines: Sequence[Baseline],
    split: str,
) -> str:
    """Whether a model beats the fitted densities on a split, in one line.

    It does, or does not, where both ends of its `margins` lie on one side of 0 by two standard
    errors.
    """
    parts = []
    for nats, baseline in zip(found, baselines, strict=True):
        ends = [
            (nats[side], 2 * nats[f"standard_error_{side}"])
            for side in sorted(("lower", "upper"), key=lambda side: nats[side])
        ]
        if crossing(bracket):
            parts.append(f"cannot be compared with {baseline.name}")
            continue
        if all(value - error > 0 for value, error in ends):
            words = "beats"
        elif all(value + error < 0 for value, error in ends):
            words = "does not beat"
        else:
            words = "cannot, by this bracket and its errors, be told from"
        low, high = (f"{value:+.2f} +- {error / 2:.2f}" for value, error in ends)
        parts.append(f"{words} {baseline.name} ({low} to {high} nats)")
    return f"{split}, this model {', and '.join(parts)}"


def figure(
    brackets: Sequence[Bracket],
    energies: Mapping[str, SplitEnergy],
    baselines: Sequence[Baseline],
    units: Units,
) -> np.ndarray:
    """log Z, and the log-likelihood or bits/dim of each split, against the temperatures.

    Those of the fitted densities on the last split are level lines.
    """
    temperatures = [bracket.num_temperatures for bracket in brackets]
    sides = {
        "forward": [bracket.forward for bracket in brackets],
        "reverse": [bracket.reverse for bracket in brackets],
    }
    log_z = charts.Curves(
        "log Z of the lowest level",
        temperatures,
        {name: [side.log_z for side in row] for name, row in sides.items()},
        errors={name: [side.standard_error for side in row] for name, row in sides.items()},
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
                [units.bits_per_dim(value) for value in nats] if units.bin_width else nats
            )
    for baseline in baselines:
        name = list(energies)[-1]
        nats = baseline.likelihood[name].mean
        level = units.bits_per_dim(nats) if units.bin_width else nats
        bounds[f"{name}, {baseline.name}"] = [level] * len(temperatures)
    likelihood = charts.Curves(
        "likelihood of images",
        temperatures,
        bounds,
        x_label="number of temperatures",
        y_label="bits/dim" if units.bin_width else "log-likelihood, nats",
        log_x=True,
    )
    return charts.curves_picture([log_z, likelihood])
