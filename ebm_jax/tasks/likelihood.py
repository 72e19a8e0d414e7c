"""--mode=likelihood: log-likelihoods by annealed importance sampling, bracketed from both sides."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ebm_jax import experiment, parallel, samplers, workdir
from ebm_jax.evaluation.density import annealing, log_likelihood
from ebm_jax.evaluation.density.annealing import Ladder, Path, Tuned
from ebm_jax.evaluation.marginals import level_energies
from ebm_jax.experiment import ConfigError
from ebm_jax.io.resumable import ResumableWork

_STRETCH = 10  # temperatures between two states that are kept
_TUNING_SHARE = 0.2  # of the bar
_MOST_TUNED = 5_000  # temperatures, before tuning gives up


class _Run(NamedTuple):
    """What every part of the work needs. path: (params) -> Path, for use in jit."""

    settings: ml_collections.ConfigDict
    path: Callable[[Any], Path]
    params: Any
    key: jax.Array
    shape: tuple[int, ...]
    num_segments: int


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `likelihood/`: likelihood.json and likelihood.png; prints figures and meaning."""
    settings = _checked(config)
    trained = workdir.load_trained(config, directory)
    make = experiment.make_marginals(config, trained.parts)
    params = trained.params
    marginals = make(params)
    try:
        levels = annealing.passed_levels(np.asarray(marginals.sigma_bar), settings.max_levels)
    except ValueError as error:
        raise ConfigError(f"likelihood.{error}") from error
    if min(settings.num_temperatures) < len(levels):
        raise ConfigError(
            f"likelihood.num_temperatures is {tuple(settings.num_temperatures)} and the path has "
            f"{len(levels)} segments: write at least {len(levels)}"
        )
    shape = trained.parts.dataset.example_shape
    of = _Run(
        settings,
        lambda params: Path(make(params), levels),
        params,
        jax.random.fold_in(experiment.run_keys(config)["sample"], 1),  # not the key of samples
        shape,
        len(levels),
    )

    @jax.jit
    def walk(params, key, stretch, u):
        return annealing.walk(
            key, of.path(params), stretch, u, num_leapfrog_steps=settings.num_leapfrog_steps
        )

    images = {
        "training": workdir.some_examples(config, trained.parts.dataset, settings.num_images),
        "held out": workdir.some_examples(
            config,
            experiment.load_split(config, config.data.held_out_split),
            settings.num_images,
        ),
    }
    total = 2 * sum(settings.num_temperatures)
    tuning = round(_TUNING_SHARE * total)
    folder = pathlib.Path(directory) / "likelihood" / "pieces"
    made_from = workdir.made_from(config, trained, "likelihood")
    with ResumableWork(folder, made_from, "annealing", total + tuning) as pieces:
        tuned = _tune(of, pieces, tuning)
        draws = _starts(of, pieces, images["training"], tuned[-1].step_size)
        log_z_base = marginals.base.log_z(int(np.prod(shape)))
        brackets = []
        for number in settings.num_temperatures:
            ladder = annealing.allocate(tuned, number, _STRETCH)
            down = annealing.reversed_ladder(ladder)
            base = marginals.base.draw(of.key, np.arange(settings.num_chains), shape)
            forward = _anneal(of, pieces, walk, ladder, base, number, reverse=False)
            reverse = _anneal(of, pieces, walk, down, draws, number, reverse=True)
            brackets.append(
                log_likelihood.Bracket(
                    number,
                    log_likelihood.estimate(forward, log_z_base, reverse=False),
                    log_likelihood.estimate(reverse, log_z_base, reverse=True),
                )
            )
        energies = {name: _energies(config, of, x) for name, x in images.items()}
        units = _units(config, shape)
        measured, caveats = _measured(config, marginals, units)
        meaning = [
            *log_likelihood.statement(
                reverse_steps=settings.reverse_steps, measured=measured, units=units
            ),
            *log_likelihood.crossing(brackets[-1]),
            *caveats,
        ]
        lines = log_likelihood.lines(brackets, energies, units)
        on_grid = None
        if shape == (2,):
            lowest = marginals.energy(jnp.asarray(0))
            on_grid = log_likelihood.log_z_on_grid(lowest, config.data.low, config.data.high)
            lines.append(f"by a grid, log Z is {on_grid:.4f}")
        sampler = f"HMC, {settings.num_leapfrog_steps} leapfrog steps, one move per temperature"
        workdir.write_result(
            config, trained, directory, "likelihood",
            num_examples=settings.num_chains,
            figures={
                "statement": meaning,
                "sampler": sampler,
                "levels_passed": levels,
                "splits_are": {
                    "training": config.data.split, "held out": config.data.held_out_split
                },
                **log_likelihood.figures(brackets, energies, units),
                "log_z_on_grid": on_grid,
                "tuned": [point._asdict() for point in tuned],
            },
            drawings={"likelihood": log_likelihood.picture(brackets, energies, units)},
            lines=[*lines, *meaning],
        )  # fmt: skip
    return 0


def _checked(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    settings, devices = config.likelihood, jax.local_device_count()
    for name in ("num_chains", "num_images", "num_leapfrog_steps"):
        if settings[name] < 1:
            raise ConfigError(f"likelihood.{name} is {settings[name]}: write at least 1")
    if settings.tuning_steps < 20 or settings.reverse_steps < 0:
        raise ConfigError(
            f"likelihood.tuning_steps is {settings.tuning_steps} and reverse_steps "
            f"{settings.reverse_steps}: write at least 20 and 0"
        )
    if not 0 < settings.target_acceptance < 1:
        raise ConfigError(
            f"likelihood.target_acceptance is {settings.target_acceptance}: write 0 < a < 1"
        )
    if not len(settings.num_temperatures):
        raise ConfigError("likelihood.num_temperatures is empty: write one number or more")
    if settings.num_chains % devices:
        nearest = max(1, round(settings.num_chains / devices)) * devices
        raise ConfigError(
            f"likelihood.num_chains {settings.num_chains} does not divide among {devices} devices: "
            f"write {nearest}, the nearest that does"
        )
    return settings


def _tune(of: _Run, pieces: ResumableWork, work: int) -> list[Tuned]:
    """Temperatures and their steps along the whole path."""
    settings = of.settings
    key = jax.random.fold_in(of.key, 1)
    base = of.path(of.params).marginals.base

    @jax.jit
    def step(params, n, segment, beta, u_earlier, u, step_size):
        return annealing.tune_step(
            jax.random.fold_in(key, n), of.path(params), segment, beta, u_earlier, u, step_size,
            num_steps=settings.tuning_steps,
            num_leapfrog_steps=settings.num_leapfrog_steps,
            target_acceptance=settings.target_acceptance,
        )  # fmt: skip

    kept = pieces.load("tuned")
    if kept is None:
        u_earlier, u = (
            base.draw(jax.random.fold_in(key, n), np.arange(settings.num_chains), of.shape)
            for n in (0, 1)
        )
        tuned = []
    else:
        rows = zip(*(kept[name].tolist() for name in Tuned._fields), strict=True)
        u_earlier, u, tuned = kept["u_earlier"], kept["u"], [Tuned(*row) for row in rows]
    u_earlier, u = parallel.spread(u_earlier), parallel.spread(u)
    segment, beta, step_size, shown = 0, 0.0, 0.1, 0
    if tuned:
        segment, beta, step_size, *_ = tuned[-1]
        shown = _share(tuned[-1], of.num_segments, work)
        pieces.skip(shown)
    while not (segment == of.num_segments - 1 and beta >= 1):
        if beta >= 1:
            segment, beta = segment + 1, 0.0
        beta, moved, *found = step(
            of.params, len(tuned), segment, float(beta), u_earlier, u, float(step_size)
        )
        u_earlier, u = u, moved
        point = Tuned(segment, float(beta), *(float(value) for value in found))
        step_size = point.step_size
        if not np.all(np.isfinite(np.asarray(point))) or len(tuned) == _MOST_TUNED:
            raise ConfigError(
                f"--mode=likelihood: annealing does not get beyond beta = {tuned[-1].beta:.3g} of "
                f"segment {segment}, as energies are not finite or fall without end: the model "
                "has no normalising constant that this finds; train longer"
                if tuned
                else "--mode=likelihood: energies at the base law are not finite: train longer"
            )
        tuned.append(point)
        columns = zip(*tuned, strict=True)
        pieces.save(
            "tuned",
            {**dict(zip(Tuned._fields, columns, strict=True)), "u_earlier": u_earlier, "u": u},
        )
        done = _share(point, of.num_segments, work)
        pieces.advance(done - shown, {"beta": segment + point.beta, "acceptance": point.acceptance})
        shown = done
    return tuned


def _share(point: Tuned, num_segments: int, work: int) -> int:
    return int(work * (point.segment + point.beta) / num_segments)


def _starts(of: _Run, pieces: ResumableWork, images: np.ndarray, step_size: float) -> np.ndarray:
    """Where reverse annealing starts: noised training images, moved by HMC at the lowest level."""
    settings, key = of.settings, jax.random.fold_in(of.key, 2)
    if (kept := pieces.load("starts")) is not None:
        return kept["x"]

    @jax.jit
    def settle(params, x):
        path = of.path(params)
        x = path.marginals.noised(jax.random.fold_in(key, 0), 0, x, jnp.arange(len(x)))
        if not settings.reverse_steps:
            return x
        return annealing.settle(
            jax.random.fold_in(key, 1), path, x, step_size, settings.reverse_steps,
            num_leapfrog_steps=settings.num_leapfrog_steps,
        )  # fmt: skip

    # Images are few at times: then some start more than one chain.
    x = images[np.arange(settings.num_chains) % len(images)]
    x = np.asarray(settle(of.params, parallel.spread(x)))
    pieces.save("starts", {"x": x})
    return x


def _anneal(
    of: _Run,
    pieces: ResumableWork,
    walk: Callable[..., samplers.AISResult],
    ladder: Ladder,
    u: np.ndarray,
    number: int,
    *,
    reverse: bool,
) -> np.ndarray:
    """Log weights [chains] of one direction with so many temperatures."""
    key = jax.random.fold_in(jax.random.fold_in(of.key, 4 + reverse), number)
    name = f"{'reverse' if reverse else 'forward'}_{number}"
    first, log_weights = 0, np.zeros(len(u), np.float64)
    if (kept := pieces.load(name)) is not None:
        first, u, log_weights = int(kept["next"]), kept["u"], kept["log_weights"]
    u, stretches = parallel.spread(u), len(ladder.segment)
    shares = np.diff(np.round(np.linspace(0, number, stretches + 1)).astype(int))
    pieces.skip(int(shares[:first].sum()))
    for n in range(first, stretches):
        found = walk(
            of.params, jax.random.fold_in(key, n), Ladder(*(field[n] for field in ladder)), u
        )
        u, log_weights = found.x, log_weights + np.asarray(found.log_weights, np.float64)
        pieces.save(name, {"next": n + 1, "u": u, "log_weights": log_weights})
        pieces.advance(int(shares[n]), {"log w": float(np.mean(log_weights))})
    return log_weights


def _energies(
    config: ml_collections.ConfigDict, of: _Run, x: np.ndarray
) -> log_likelihood.SplitEnergy:
    """Of images brought to the lowest level's noise, one draw each."""
    found = level_energies(
        lambda params: of.path(params).marginals, of.params, jax.random.fold_in(of.key, 3), 0, x,
        batch_size=config.sampling.batch_size,
    )  # fmt: skip
    return log_likelihood.split_energy(found)


def _units(config: ml_collections.ConfigDict, shape: tuple[int, ...]) -> log_likelihood.Units:
    if len(shape) != 3:
        return log_likelihood.Units(int(np.prod(shape)), 0.0)
    grey_values = 256 if config.data.dequantise else 255  # from low to high, see data.preprocess
    return log_likelihood.Units(
        int(np.prod(shape)), (config.data.high - config.data.low) / grey_values
    )


def _measured(
    config: ml_collections.ConfigDict, marginals: Any, units: log_likelihood.Units
) -> tuple[str, list[str]]:
    """What the density is of, and what to bear in mind with this method."""
    noise, objective = float(marginals.sigma_bar[0]), config.objective
    if marginals.base.box is not None:
        measured = "exp(-E) / Z on the box of the images, at uniformly dequantised images"
        if not config.data.dequantise:
            measured = "exp(-E) / Z on the box of the images, at the images themselves"
        noise = objective.noise_std * (config.data.high - config.data.low)
        return measured, [
            "E is taken at temperature 1, as in the loss; the noise of the chains in training and "
            f"sampling is that of temperature {noise**2 / (2 * objective.step_size):.2g}."
        ]
    if objective.name == "denoising_score_matching":
        measured = f"exp(-E) / Z at images with normal noise of {noise:g} model units"
        if objective.num_levels == 1:
            return measured, []
        return measured, [
            "With a ladder of noises the best E is no log density of data at any noise: read these "
            "figures as those of exp(-E) alone, and not as what this method reaches."
        ]
    of = f"with normal noise of {noise:.3g} model units"
    if not units.grey_step:
        return f"the density at the lowest noise level, of points {of}, one draw each", []
    return (
        f"the density at the lowest noise level, of images {of} ({noise / units.grey_step:.2g} "
        "grey values), one draw each; bits/dim are of that density, and no bound on the "
        "probability of the grey values themselves",
        [],
    )
