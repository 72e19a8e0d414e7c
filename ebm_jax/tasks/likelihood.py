"""--mode=likelihood: log-likelihoods by annealed importance sampling, bracketed from both sides."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import parallel, samplers
from ebm_jax.evaluation.density import (
    annealing,
    baselines,
    conditional_bound,
    log_likelihood,
)
from ebm_jax.evaluation.density.annealing import AdaptedTemperature, Ladder, Path
from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Params
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _annealed, _likelihood, _movement
from ebm_jax.tasks._annealed import Ends

IMAGES_ONLY = False

_CHUNK = 10  # temperatures between two states that are saved
_TUNING_SHARE = 0.2  # of the bar
_MOST_TUNED = 5_000  # temperatures, before tuning gives up


@dataclasses.dataclass(frozen=True)
class Settings:
    """The annealing, and the images whose likelihood is measured."""

    num_temperatures: tuple[int, ...] = setting(
        (100, 300, 1_000), "of annealing; a bracket for each", at_least=1
    )
    num_chains: int = setting(64, "in each direction", at_least=1)
    num_leapfrog_steps: int = setting(3, "of HMC, which moves once at each temperature", at_least=1)
    target_acceptance: float = setting(0.8, "that its steps are tuned to", above=0, below=1)
    tuning_steps: int = setting(
        30, "of HMC at each temperature of the ladder that is tuned", at_least=20
    )
    max_levels: int = setting(6, "noise levels passed, at equal ratios of their noise", at_least=1)
    num_images: int = setting(500, "of each split, chosen by sampling.seed", at_least=1)
    reverse_steps: int = setting(
        300, "of HMC from training images, before reverse annealing; or 0", at_least=0
    )
    num_components: tuple[int, ...] = setting(
        (2, 5, 10, 20), "of the mixture of Gaussians beside the model, the best of these on images "
        "left out; (): one Gaussian alone", at_least=1,
    )  # fmt: skip
    num_fitted: int = setting(
        10_000, "training images at most, that the Gaussians are fitted to", at_least=2
    )
    num_conditional_images: int = setting(
        100, "of each split, for the bound through a model's conditionals, if it has any; 0: none",
        at_least=0,
    )  # fmt: skip
    num_conditional_temperatures: int = setting(
        50, "of annealing from the Gaussian factor to each conditional", at_least=1
    )


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
    fitted = _baselines(trained, settings, work, images, noise_key)
    annealed = _Annealing(trained, settings, work, levels)
    brackets, tuned, roughness, ends = annealed.brackets(images["training"])
    stuck = [f"{point.segment + point.beta:.4g}" for point in tuned if point.is_stuck]
    of_examples = {name: trained.energies(noise_key, 0, x) for name, x in images.items()}
    energies = {name: log_likelihood.split_energy(e) for name, e in of_examples.items()}
    held_out = images["held out"]
    noisy = densities.noised(noise_key, 0, jnp.asarray(held_out), jnp.arange(len(held_out)))
    found, pictures = _annealed.where(
        run, ends, of_examples["held out"], np.asarray(noisy), float(densities.a_bar[0])
    )
    units = _units(run)
    meaning = [
        *_likelihood.statement(
            reverse_steps=settings.reverse_steps, measured=_measured(run, densities, units),
            units=units,
        ),
        *_likelihood.crossing(brackets[-1]),
        *_annealed.lines(found),
        *densities.caveats,
    ]  # fmt: skip
    bounds = _through_conditionals(trained, settings, work, images, noise_key)
    log_z = None if densities.log_z is None else float(densities.log_z[0])
    claimed = _likelihood.claimed_metrics(log_z, energies, units)
    lines = _likelihood.lines(brackets, energies, units) + _likelihood.claimed_lines(claimed)
    if bounds:
        lines += _likelihood.conditional_lines(bounds, units)
        meaning.append(
            "Through the conditionals: a lower bound on the log-likelihood of the chain that "
            "sampling goes down, whose conditionals' log Z are annealed in reverse and forward; "
            "with the forward ones it is too high by their error."
        )
    if fitted:
        lines += _likelihood.baseline_lines(fitted, units)
        meaning.append(_likelihood.verdict(brackets[-1], energies, fitted, "held out"))
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
            **_likelihood.metrics(brackets, energies, units),
            "annealed": _annealed.metrics(found),
            "log_z_on_grid": on_grid,
            "claimed": claimed,
            "through_conditionals": _likelihood.conditional_metrics(bounds, units),
            "baselines": _likelihood.baseline_metrics(fitted, units),
            "tuned": [point._asdict() for point in tuned],
            **_movement.metrics(roughness, "starts of reverse annealing", stuck),
        },
        summary=[*lines, *meaning, *_movement.warning(roughness, stuck, "tuned temperatures")],
        figures={"likelihood": _likelihood.figure(brackets, energies, fitted, units), **pictures},
    )


class _Annealing:
    """The annealing of one model: compiled functions, and what they share.

    Chains lie on the devices of all processes, so that each makes its part of them.
    """

    def __init__(
        self,
        trained: TrainedRun,
        settings: Settings,
        work: ResumableWork,
        levels: tuple[int, ...],
    ):
        self.run = trained.run
        self.params = parallel.everywhere(trained.params)
        self.settings = settings
        self.work = work
        # More temperatures go on from what is tuned and from the brackets that are there.
        forward = ("num_chains", "num_leapfrog_steps", "target_acceptance", "tuning_steps")
        reverse = (*forward, "num_images", "reverse_steps")
        self.forward, self.reverse = (
            work.piece(
                name,
                trained.fingerprint(
                    levels=levels, **{field: getattr(settings, field) for field in fields}
                ),
            )
            for name, fields in (("forward", forward), ("reverse", reverse))
        )
        self.levels = levels
        self.key = trained.run.key("likelihood")
        self.base = self.path(trained.params).densities.base
        self.shape = trained.run.dataset.example_shape
        self.num_segments = len(levels)

    def path(self, params: Params) -> Path:
        """For use in jit."""
        return Path(self.run.method.densities(params), self.levels)

    def brackets(
        self, images: np.ndarray
    ) -> tuple[list[log_likelihood.Bracket], list[AdaptedTemperature], float, Ends]:
        """log Z from both sides for each number of temperatures, and the schedule behind them.

        Then the roughness of the energy, in nats, at the starts of reverse annealing, and where
        forward annealing with the most temperatures ends.
        """
        settings = self.settings
        total = 2 * sum(settings.num_temperatures)
        tuning = round(_TUNING_SHARE * total)
        self.work.begin("annealing", total + tuning)
        tuned = self._tune(tuning)
        starts = self._reverse_starts(images, tuned[-1].step_size)
        log_z_base = self.base.log_z(int(np.prod(self.shape)))
        index = np.arange(settings.num_chains, dtype=np.int32)

        @functools.partial(jax.jit, static_argnames="is_first")
        def anneal(params, key, chunk, u, *, is_first):
            if is_first:
                chunk = chunk._replace(segment=0)
            return annealing.anneal(
                key, self.path(params), chunk, u, num_leapfrog_steps=settings.num_leapfrog_steps
            )

        brackets, ends = [], {}
        for number in settings.num_temperatures:
            ladder = annealing.allocate(tuned, number, _CHUNK)
            down = annealing.reversed_ladder(ladder)
            base = self.base.sample(self.key, index, self.shape)
            forward, u = self._log_weights(anneal, ladder, base, number, reverse=False)
            ends[number] = u, forward
            reverse, _ = self._log_weights(anneal, down, starts, number, reverse=True)
            brackets.append(
                log_likelihood.Bracket(
                    number,
                    log_likelihood.estimate(forward, log_z_base, reverse=False),
                    log_likelihood.estimate(reverse, log_z_base, reverse=True),
                )
            )
        u, log_weights = ends[max(ends)]
        return brackets, tuned, self._roughness(starts), self._ends(u, log_weights)

    def _ends(self, u: np.ndarray, log_weights: np.ndarray) -> Ends:
        @jax.jit
        def positions(params, u):
            path = self.path(params)
            x = path.densities.base.reflect(u)
            return x, path.densities.energy(jnp.asarray(0))(x)

        x, energies = map(parallel.whole, positions(self.params, parallel.spread(u)))
        return Ends(x, energies.astype(np.float64), log_weights)

    def _roughness(self, x: np.ndarray) -> float:
        @jax.jit
        def roughness(params, u):
            path = self.path(params)
            energy_fn, reflect = path.densities.energy(jnp.asarray(0)), self.base.reflect
            return samplers.roughness(lambda u: energy_fn(reflect(u)), u).nats

        return float(parallel.whole(roughness(self.params, parallel.spread(x))))

    def _tune(self, amount: int) -> list[AdaptedTemperature]:
        """Temperatures and their steps along the whole path; amount: of the progress bar."""
        settings, work = self.settings, self.work
        key = jax.random.fold_in(self.key, 1)

        @functools.partial(jax.jit, static_argnames="is_first")
        def step(params, n, segment, beta, u_earlier, u, step_size, *, is_first):
            segment = 0 if is_first else segment
            return annealing.tune_step(
                jax.random.fold_in(key, n), self.path(params), segment, beta, u_earlier, u,
                step_size,
                num_steps=settings.tuning_steps,
                num_leapfrog_steps=settings.num_leapfrog_steps,
                target_acceptance=settings.target_acceptance,
            )  # fmt: skip

        if (saved := self.forward.load("tuned")) is None:
            index = np.arange(settings.num_chains, dtype=np.int32)
            u_earlier, u = (
                self.base.sample(jax.random.fold_in(key, n), index, self.shape) for n in (0, 1)
            )
            tuned = []
        else:
            fields = AdaptedTemperature._fields
            rows = zip(*(saved[name].tolist() for name in fields), strict=True)
            u_earlier, u = saved["u_earlier"], saved["u"]
            tuned = [AdaptedTemperature(*row) for row in rows]
        u_earlier, u = parallel.spread(u_earlier), parallel.spread(u)
        segment, beta, step_size, shown = 0, 0.0, 0.1, 0
        if tuned:
            segment, beta, step_size, *_ = tuned[-1]
            shown = self._share(tuned[-1], amount)
            work.skip(shown)
        while not (segment == self.num_segments - 1 and beta >= 1):
            if beta >= 1:
                segment, beta = segment + 1, 0.0
            beta, moved, *found = step(
                self.params, len(tuned), segment, float(beta), u_earlier, u, float(step_size),
                is_first=segment == 0,
            )  # fmt: skip
            beta, *found, is_stuck = (float(parallel.whole(value)) for value in (beta, *found))
            u_earlier, u = u, moved
            point = AdaptedTemperature(segment, beta, *found, is_stuck=bool(is_stuck))
            step_size = point.step_size
            if not np.all(np.isfinite(np.asarray(point))) or len(tuned) == _MOST_TUNED:
                raise ValueError(_no_end(tuned, segment))
            tuned.append(point)
            columns = dict(zip(AdaptedTemperature._fields, zip(*tuned, strict=True), strict=True))
            moved_chains = {"u_earlier": parallel.whole(u_earlier), "u": parallel.whole(u)}
            self.forward.save_state("tuned", {**columns, **moved_chains})
            done = self._share(point, amount)
            shown_metrics = {"beta": segment + point.beta, "acceptance": point.acceptance}
            work.advance(done - shown, shown_metrics)
            shown = done
        return tuned

    def _share(self, point: AdaptedTemperature, amount: int) -> int:
        return int(amount * (point.segment + point.beta) / self.num_segments)

    def _reverse_starts(self, images: np.ndarray, step_size: float) -> np.ndarray:
        """Noised training images, moved by HMC at the lowest level."""
        settings, key = self.settings, jax.random.fold_in(self.key, 2)
        if (saved := self.reverse.load("starts")) is not None:
            return saved["x"]

        @jax.jit
        def settle(params, x):
            path = self.path(params)
            index = jnp.arange(len(x), dtype=jnp.int32)
            x = path.densities.noised(jax.random.fold_in(key, 0), 0, x, index)
            if not settings.reverse_steps:
                return x
            return annealing.settle(
                jax.random.fold_in(key, 1), path, x, step_size, settings.reverse_steps,
                num_leapfrog_steps=settings.num_leapfrog_steps,
            )  # fmt: skip

        # Where images are few, some start more than one chain.
        x = images[np.arange(settings.num_chains) % len(images)]
        x = parallel.whole(settle(self.params, parallel.spread(x)))
        self.reverse.save("starts", {"x": x})
        return x

    def _log_weights(
        self,
        anneal: Callable[..., samplers.AISResult],
        ladder: Ladder,
        u: np.ndarray,
        number: int,
        *,
        reverse: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(log weights [chains], last positions) of one direction with so many temperatures."""
        work = self.reverse if reverse else self.forward
        key = jax.random.fold_in(jax.random.fold_in(self.key, 4 + reverse), number)
        name = str(number)
        first, log_weights = 0, np.zeros(len(u), np.float64)
        if (saved := work.load(name)) is not None:
            first, u, log_weights = int(saved["next"]), saved["u"], saved["log_weights"]
        spread_u, chunks = parallel.spread(u), len(ladder.segment)
        shares = np.diff(np.round(np.linspace(0, number, chunks + 1)).astype(int))
        work.skip(int(shares[:first].sum()))
        for n in range(first, chunks):
            chunk = Ladder(*(field[n] for field in ladder))
            found = anneal(
                self.params, jax.random.fold_in(key, n), chunk, spread_u,
                is_first=int(chunk.segment) == 0,
            )  # fmt: skip
            spread_u = found.x
            log_weights = log_weights + parallel.whole(found.log_weights).astype(np.float64)
            here = {"next": n + 1, "u": parallel.whole(spread_u), "log_weights": log_weights}
            work.save_state(name, here)
            work.advance(int(shares[n]), {"log w": float(np.mean(log_weights))})
        return log_weights, parallel.whole(spread_u)


def _baselines(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    images: Mapping[str, np.ndarray],
    noise_key: jax.Array,
) -> list[Baseline]:
    """A Gaussian and a mixture, on the noisy images of the model's own energies.

    None of them where images have neither noise nor dequantization.
    """
    run, densities = trained.run, trained.run.method.densities(trained.params)
    a_bar, noise_std = (float(v[0]) for v in (densities.a_bar, densities.sigma_bar))
    if run.has_images and not noise_std and not run.data.dequantize:
        return []
    fields = ("num_images", "num_components", "num_fitted")
    piece = work.piece(
        "baselines",
        trained.fingerprint(**{field: getattr(settings, field) for field in fields}),
    )
    if (saved := piece.load("mixture")) is None:
        x = a_bar * run.random_examples(run.dataset, settings.num_fitted)
        mixtures = [baselines.fit_gaussian(x, noise_std)]
        if settings.num_components:
            seed = run.sampling.seed
            mixtures.append(baselines.fit_mixture(x, noise_std, settings.num_components, seed))
        piece.save(
            "mixture",
            {f"{name}_{i}": value for i, mixture in enumerate(mixtures)
             for name, value in mixture._asdict().items()},
        )  # fmt: skip
    else:
        mixtures = [
            baselines.Mixture(*(saved[f"{name}_{i}"] for name in baselines.Mixture._fields))
            for i in range(len(saved) // len(baselines.Mixture._fields))
        ]
    noisy = {
        name: np.asarray(densities.noised(noise_key, 0, jnp.asarray(x), jnp.arange(len(x))))
        for name, x in images.items()
    }
    return [baselines.baseline(mixture, noisy) for mixture in mixtures]


def _through_conditionals(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    images: Mapping[str, np.ndarray],
    noise_key: jax.Array,
) -> dict[str, _likelihood.ThroughConditionals]:
    """The likelihood of the sampler by split, on the first of the images; {} without conditionals.

    The images have the noise of the model's own energies.
    """
    run = trained.run
    if (
        not settings.num_conditional_images
        or not run.method.densities(trained.params).num_conditionals
    ):
        return {}
    key = jax.random.fold_in(run.key("likelihood"), 6)

    def path(params: Params, x: jax.Array, index: jax.Array) -> tuple[Densities, jax.Array]:
        densities = run.method.densities(params)
        noised = densities.noised(noise_key, 0, x, index)
        return densities, conditional_bound.noising_path(key, densities, noised, index)

    @jax.jit
    def tuned(params: Params, x: jax.Array, index: jax.Array) -> jax.Array:
        return conditional_bound.tune_steps(
            jax.random.fold_in(key, 1), *path(params, x, index), num_steps=settings.tuning_steps,
            target_acceptance=settings.target_acceptance,
        )  # fmt: skip

    def bounds(common: Any, x: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        found = conditional_bound.conditional_bounds(
            jax.random.fold_in(key, 2), *path(common["params"], x, index), common["steps"],
            index[0], num_temperatures=settings.num_conditional_temperatures,
        )  # fmt: skip
        return found._asdict()

    fields = (
        "num_conditional_images", "num_conditional_temperatures", "num_images", "tuning_steps",
        "target_acceptance", "num_chains",
    )  # fmt: skip
    piece = work.piece(
        "conditionals",
        trained.fingerprint(**{field: getattr(settings, field) for field in fields}),
    )
    number = min(settings.num_conditional_images, *(len(x) for x in images.values()))
    work.begin("conditionals", number * len(images))
    rows = np.arange(settings.num_chains) % len(images["training"])
    steps = parallel.whole(
        tuned(
            parallel.everywhere(trained.params), parallel.spread(images["training"][rows]),
            parallel.spread(np.arange(settings.num_chains, dtype=np.int32)),
        )
    )  # fmt: skip
    common, found = {"params": trained.params, "steps": steps}, {}
    for name, x in images.items():
        values = piece.map_batches(
            name.replace(" ", "_"), bounds, common,
            (x[:number], np.arange(number, dtype=np.int32)), batch_size=run.sampling.batch_size,
        )  # fmt: skip
        found[name] = _likelihood.ThroughConditionals(
            Likelihood.of(values["lower"]), Likelihood.of(values["upper"]),
            values["widths"].mean(0).tolist(), number,
        )  # fmt: skip
    return found


def _no_end(tuned: list[AdaptedTemperature], segment: int) -> str:
    if not tuned:
        return "energies at the base distribution are not finite: train longer"
    return (
        f"annealing does not get beyond beta = {tuned[-1].beta:.3g} of segment {segment}, as "
        "energies are not finite or fall without end: the model has no normalizing constant that "
        "this finds; train longer"
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
