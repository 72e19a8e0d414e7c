"""Runs --mode=likelihood: what is measured, in which order, and what is said of it."""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.density import annealing, log_likelihood
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import _movement
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, reverse_starts
from ebm_jax.tasks.likelihood.gaussians import gaussian_baselines
from ebm_jax.tasks.likelihood.settings import Settings
from ebm_jax.tasks.likelihood.through_conditionals import through_conditionals
from ebm_jax.tasks.likelihood.two_directions import TwoDirections


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`likelihood/`: likelihood.json and likelihood.png; prints a table and what it means.

    annealed.png, of images: the chains that annealing weighs most beside training images.
    """
    with trained.for_densities() as exact:
        return _run(exact, settings, work)


def _run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    run, densities = trained.run, trained.run.method.densities(trained.params)
    parallel.check_divides("likelihood.num_chains", settings.num_chains, jax.device_count())
    if not settings.num_temperatures:
        raise ValueError("likelihood.num_temperatures: expected one number or more, got none")
    levels = annealing.path_levels(np.asarray(densities.sigma_bar), settings.max_levels)
    if min(settings.num_temperatures) < len(levels):
        raise ValueError(
            f"likelihood.num_temperatures: expected at least {len(levels)}, the segments of the "
            f"path, got {min(settings.num_temperatures)}"
        )
    images = {
        "training": run.random_examples(run.dataset, settings.num_images),
        "held out": run.random_examples(run.held_out(), settings.num_images),
    }
    noise_key = jax.random.fold_in(run.key("likelihood"), 3)
    fitted = gaussian_baselines(trained, settings, work, images, noise_key)
    annealed = TwoDirections(trained, settings, work, levels, images["training"]).anneal()
    brackets, tuned, starts, roughness, ends = annealed
    stuck = [f"{point.segment + point.beta:.4g}" for point in tuned if point.is_stuck]
    of_examples = {name: trained.energies(noise_key, 0, x) for name, x in images.items()}
    energies = {name: log_likelihood.split_energy(e) for name, e in of_examples.items()}
    held_out = images["held out"]
    noisy = densities.noised(noise_key, 0, jnp.asarray(held_out), jnp.arange(len(held_out)))
    found, pictures = annealed_ends.where(
        run, ends, of_examples["held out"], np.asarray(noisy), float(densities.a_bar[0])
    )
    units = _units(run)
    meaning = [
        *reporting.statement(
            starts=reverse_starts.words(starts, settings.reverse_steps),
            measured=_measured(run, densities, units),
            units=units,
        ),
        *reporting.crossing(brackets[-1]),
        *annealed_ends.lines(found),
        *densities.caveats,
    ]  # fmt: skip
    bounds = through_conditionals(trained, settings, work, images, noise_key)
    log_z = None if densities.log_z is None else float(densities.log_z[0])
    claimed = reporting.claimed_metrics(log_z, energies, units)
    lines = reporting.lines(brackets, energies, units) + reporting.claimed_lines(claimed)
    if bounds:
        lines += reporting.conditional_lines(bounds, units)
        meaning.append(
            "Through the conditionals: a lower bound on the log-likelihood of the chain that "
            "sampling goes down, whose conditionals' log Z are annealed in reverse and forward; "
            "with the forward ones it is too high by their error."
        )
    margins = reporting.margins(brackets[-1], of_examples, fitted, "held out")
    if fitted:
        lines += reporting.baseline_lines(fitted, units)
        meaning.append(reporting.verdict(brackets[-1], margins, fitted, "held out"))
    else:
        meaning.append(
            "No Gaussian stands beside the model: these images have neither noise nor "
            "dequantization, and where pixels do not vary its density has no bound."
        )
    on_grid = None
    if run.dataset.example_shape == (2,) and densities.base.box is None:
        lowest = densities.energy(jnp.asarray(0))
        on_grid = log_likelihood.log_z_on_grid(lowest, run.data.low, run.data.high)
        lines.append(f"by a grid, log Z is {on_grid:.4f}")
    sampler = f"HMC, {settings.num_leapfrog_steps} leapfrog steps, one move per temperature"
    return Result(
        num_examples=settings.num_chains,
        metrics={
            "statement": meaning,
            "sampler": sampler,
            "levels_passed": levels,
            "splits_are": {"training": run.data.split, "held out": run.general.held_out_split},
            **reporting.metrics(brackets, energies, units),
            "reverse_starts": reverse_starts.metrics(starts, settings.reverse_steps),
            "annealed": annealed_ends.metrics(found),
            "log_z_on_grid": on_grid,
            "claimed": claimed,
            "through_conditionals": reporting.conditional_metrics(bounds, units),
            "baselines": reporting.baseline_metrics(fitted, margins, units),
            "tuned": [point._asdict() for point in tuned],
            **_movement.metrics(roughness, "starts of reverse annealing", stuck),
        },
        summary=[*lines, *meaning, *_movement.warning(roughness, stuck, "tuned temperatures")],
        figures={"likelihood": reporting.figure(brackets, energies, fitted, units), **pictures},
    )


def _units(run: Run) -> log_likelihood.Units:
    num_values = int(np.prod(run.dataset.example_shape))
    if not run.has_images:
        return log_likelihood.Units(num_values, 0.0)
    bins = 256 if run.data.dequantize else 255  # from low to high, see data.preprocess
    return log_likelihood.Units(num_values, (run.data.high - run.data.low) / bins)


def _measured(run: Run, densities: Densities, units: log_likelihood.Units) -> str:
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
