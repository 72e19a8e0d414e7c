"""Runs --mode=likelihood: what is measured, in which order, and what is said of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.density import annealing, log_likelihood
from ebm_jax.evaluation.density.baselines import Baseline
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import _movement
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, reverse_starts, through_flow
from ebm_jax.tasks.likelihood.gaussians import gaussian_baselines
from ebm_jax.tasks.likelihood.settings import Settings
from ebm_jax.tasks.likelihood.through_conditionals import through_conditionals
from ebm_jax.tasks.likelihood.two_directions import TwoDirections


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`likelihood/`: likelihood.json; prints a table and what it means.

    Of annealing: likelihood.png, and annealed.png, of images: the chains that it weighs most beside
    training images. Of a sampler that is a flow: flow.png.
    """
    with trained.for_densities() as exact:
        return _run(exact, settings, work)


class Part(NamedTuple):
    """What one way to a likelihood gives; all of it may be empty.

    lines: of the table on the terminal. meaning: sentences. metrics: for the JSON. figures: by
    name. warnings: what is said last.
    """

    lines: Sequence[str] = ()
    meaning: Sequence[str] = ()
    metrics: Mapping[str, Any] = {}
    figures: Mapping[str, np.ndarray] = {}
    warnings: Sequence[str] = ()


class Measured(NamedTuple):
    """What all ways are measured on.

    images: by split, as they are; with the noise of noise_key their energies [n]. fitted: the
    Gaussians beside the model.
    """

    images: dict[str, np.ndarray]
    noise_key: jax.Array
    energies: dict[str, np.ndarray]
    fitted: list[Baseline]
    units: log_likelihood.Units


def _run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    run, densities = trained.run, trained.run.method.densities(trained.params)
    levels = _levels(densities, settings)
    images = {
        "training": run.random_examples(run.dataset, settings.num_images),
        "held out": run.random_examples(run.held_out(), settings.num_images),
    }
    noise_key = jax.random.fold_in(run.key("likelihood"), 3)
    fitted = gaussian_baselines(trained, settings, work, images, noise_key)
    energies = {name: trained.energies(noise_key, 0, x) for name, x in images.items()}
    measured = Measured(images, noise_key, energies, fitted, _units(run))
    flow = _flow(trained, settings, work, measured)
    annealed = _annealed(trained, settings, work, measured, levels) if levels else Part()
    parts = [
        annealed, _claim(densities, measured), _conditionals(trained, settings, work, measured),
        flow, _gaussians(measured), _grid(run, densities),
    ]  # fmt: skip
    meaning = [
        f"Measured is {_described(run, densities, measured.units)}.",
        *(sentence for part in parts for sentence in part.meaning),
        *densities.caveats,
    ]
    return Result(
        num_examples=settings.num_chains if levels else len(images["held out"]),
        metrics={
            "statement": meaning,
            "splits_are": {"training": run.data.split, "held out": run.general.held_out_split},
            "units": reporting.units_metrics(measured.units),
            **{name: value for part in parts for name, value in part.metrics.items()},
        },
        summary=[
            *(line for part in parts for line in part.lines),
            *meaning,
            *(line for part in parts for line in part.warnings),
        ],
        figures={name: figure for part in parts for name, figure in part.figures.items()},
    )


def _levels(densities: Densities, settings: Settings) -> tuple[int, ...]:
    """That annealing passes; none where it is left out."""
    if not settings.num_temperatures:
        return ()
    parallel.check_divides("likelihood.num_chains", settings.num_chains, jax.device_count())
    levels = annealing.path_levels(np.asarray(densities.sigma_bar), settings.max_levels)
    if min(settings.num_temperatures) < len(levels):
        raise ValueError(
            f"likelihood.num_temperatures: expected at least {len(levels)}, the segments of the "
            f"path, got {min(settings.num_temperatures)}"
        )
    return levels


def _annealed(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    measured: Measured,
    levels: tuple[int, ...],
) -> Part:
    images, noise_key, of_examples, fitted, units = measured
    two_directions = TwoDirections(trained, settings, work, levels, images["training"])
    brackets, tuned, starts, roughness, ends = two_directions.anneal()
    densities, held_out = trained.run.method.densities(trained.params), images["held out"]
    noisy = densities.noised(noise_key, 0, jnp.asarray(held_out), jnp.arange(len(held_out)))
    found, pictures = annealed_ends.where(
        trained.run, ends, of_examples["held out"], np.asarray(noisy), float(densities.a_bar[0])
    )
    energies = {name: log_likelihood.split_energy(e) for name, e in of_examples.items()}
    stuck = [f"{point.segment + point.beta:.4g}" for point in tuned if point.is_stuck]
    margins = reporting.margins(brackets[-1], of_examples, fitted, "held out")
    verdict = reporting.verdict(brackets[-1], margins, fitted, "held out")
    sampler = f"HMC, {settings.num_leapfrog_steps} leapfrog steps, one move per temperature"
    return Part(
        reporting.lines(brackets, energies, units),
        [
            *reporting.meaning(reverse_starts.words(starts, settings.reverse_steps), units),
            *reporting.crossing(brackets[-1]),
            *annealed_ends.lines(found),
            *([verdict] if fitted else []),
        ],
        {
            "sampler": sampler,
            "levels_passed": levels,
            **reporting.metrics(brackets, energies, units),
            "reverse_starts": reverse_starts.metrics(starts, settings.reverse_steps),
            "annealed": annealed_ends.metrics(found),
            "more_nats_held_out_than_baselines": margins,
            "tuned": [point._asdict() for point in tuned],
            **_movement.metrics(roughness, "starts of reverse annealing", stuck),
        },
        {"likelihood": reporting.figure(brackets, energies, fitted, units), **pictures},
        _movement.warning(roughness, stuck, "tuned temperatures"),
    )


def _claim(densities: Densities, measured: Measured) -> Part:
    if densities.log_z is None:
        return Part(metrics={"claimed": None})
    means = {
        name: float(np.mean(energies, dtype=np.float64))
        for name, energies in measured.energies.items()
    }
    claimed = reporting.claimed_metrics(float(densities.log_z[0]), means, measured.units)
    return Part(reporting.claimed_lines(claimed), metrics={"claimed": claimed})


def _conditionals(
    trained: TrainedRun, settings: Settings, work: ResumableWork, measured: Measured
) -> Part:
    bounds = through_conditionals(trained, settings, work, measured.images, measured.noise_key)
    meaning = (
        "Through the conditionals: a lower bound on the log-likelihood of the chain that sampling "
        "goes down, whose conditionals' log Z are annealed in reverse and forward; with the "
        "forward ones it is too high by their error."
    )
    return Part(
        reporting.conditional_lines(bounds, measured.units),
        [meaning] if bounds else [],
        {"through_conditionals": reporting.conditional_metrics(bounds, measured.units)},
    )


def _flow(trained: TrainedRun, settings: Settings, work: ResumableWork, measured: Measured) -> Part:
    found = through_flow.log_densities(trained, settings, work, measured.images, measured.noise_key)
    if not found:
        return Part(metrics={"through_flow": {}})
    margins = through_flow.margins(found, measured.fitted, "held out")
    return Part(
        through_flow.lines(found, measured.units),
        [through_flow.meaning(found, margins, measured.fitted, "held out")],
        {"through_flow": through_flow.metrics(found, margins, measured.units)},
        {"flow": through_flow.figure(found, measured.fitted, measured.units)},
    )


def _gaussians(measured: Measured) -> Part:
    none = (
        "No Gaussian stands beside the model: these images have neither noise nor dequantization, "
        "and where pixels do not vary its density has no bound."
    )
    return Part(
        reporting.baseline_lines(measured.fitted, measured.units),
        [] if measured.fitted else [none],
        {"baselines": reporting.baseline_metrics(measured.fitted, measured.units)},
    )


def _grid(run: Run, densities: Densities) -> Part:
    """Where the plane can be integrated over."""
    if run.dataset.example_shape != (2,) or densities.base.box is not None:
        return Part(metrics={"log_z_on_grid": None})
    lowest = densities.energy(jnp.asarray(0))
    log_z = log_likelihood.log_z_on_grid(lowest, run.data.low, run.data.high)
    return Part([f"by a grid, log Z is {log_z:.4f}"], metrics={"log_z_on_grid": log_z})


def _units(run: Run) -> log_likelihood.Units:
    num_values = int(np.prod(run.dataset.example_shape))
    if not run.has_images:
        return log_likelihood.Units(num_values, 0.0)
    bins = 256 if run.data.dequantize else 255  # from low to high, see data.preprocess
    return log_likelihood.Units(num_values, (run.data.high - run.data.low) / bins)


def _described(run: Run, densities: Densities, units: log_likelihood.Units) -> str:
    """In words, what the density is of."""
    noise = float(densities.sigma_bar[0])
    what = "images" if run.has_images else "points"
    if densities.base.box is not None:
        measured = f"exp(-E) / Z on the box of the {what}"
        if run.data.dequantize:
            return f"{measured}, at uniformly dequantized {what}"
        return f"{measured}, at the {what} themselves"
    level = "the lowest noise level" if densities.num_levels > 1 else "exp(-E) / Z"
    measured = f"the density of {level}, at {what} with Gaussian noise of {noise:.3g} model units"
    if not units.bin_width:
        return f"{measured}, one noise each"
    return (
        f"{measured} ({noise / units.bin_width:.2g} pixel intensities), one noise each; bits/dim "
        "are of that density, and no bound on the probability of the intensities themselves"
    )
