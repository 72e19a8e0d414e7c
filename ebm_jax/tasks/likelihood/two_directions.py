"""Annealing of one model from both sides: compiled, kept on the way."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import parallel, samplers
from ebm_jax.evaluation.density import annealing, log_likelihood
from ebm_jax.evaluation.density.annealing import AdaptedTemperature, Ladder, Path
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Params
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks.likelihood.ends import Ends
from ebm_jax.tasks.likelihood.reverse_starts import Starts, settled
from ebm_jax.tasks.likelihood.settings import Settings

_CHUNK = 10  # temperatures between two states that are saved
_TUNING_SHARE = _SETTLING_SHARE = 0.2  # of the bar
_MOST_TUNED = 5_000  # temperatures, before tuning gives up


class Annealed(NamedTuple):
    """What two directions found.

    brackets: of log Z, for each number of temperatures. tuned: the schedule behind them. starts: of
    reverse annealing; roughness: of the energy there, in nats. ends: of forward annealing with the
    most temperatures.
    """

    brackets: list[log_likelihood.Bracket]
    tuned: list[AdaptedTemperature]
    starts: Starts
    roughness: float
    ends: Ends


class TwoDirections:
    """The annealing of one model: compiled functions, and what they share.

    images: of training, that reverse annealing starts from.
    Chains lie on the devices of all processes, so that each makes its part of them.
    """

    def __init__(
        self,
        trained: TrainedRun,
        settings: Settings,
        work: ResumableWork,
        levels: tuple[int, ...],
        images: np.ndarray,
    ):
        self.run = trained.run
        self.params = parallel.everywhere(trained.params)
        self.settings = settings
        self.work = work
        # More temperatures go on from what is tuned and from the brackets that are there.
        forward = ("num_chains", "num_leapfrog_steps", "target_acceptance", "tuning_steps")
        of_forward = {name: getattr(settings, name) for name in forward}
        of_reverse = {
            **of_forward,
            "reverse_steps": settings.reverse_steps,
            "images_sha256": files.arrays_sha256(images),
        }
        self.forward, self.reverse = (
            work.piece(name, trained.fingerprint(levels=levels, **values), keep=True)
            for name, values in (("forward", of_forward), ("reverse", of_reverse))
        )
        self.images = images
        self.levels = levels
        self.key = trained.run.key("likelihood")
        self.base = self.path(trained.params).densities.base
        self.shape = trained.run.dataset.example_shape
        self.num_segments = len(levels)

    def path(self, params: Params) -> Path:
        """For use in jit."""
        return Path(self.run.method.densities(params), self.levels)

    def anneal(self) -> Annealed:
        """Tunes, then both directions with each number of temperatures."""
        settings = self.settings
        total = 2 * sum(settings.num_temperatures)
        tuning = round(_TUNING_SHARE * total)
        settling = round(_SETTLING_SHARE * total) if settings.reverse_steps else 0
        self.work.begin("annealing", total + tuning + settling)
        tuned = self._tune(tuning)
        starts = self._reverse_starts(tuned[-1].step_size, settling)
        log_z_base = self.base.log_z(int(np.prod(self.shape)))
        index = np.arange(settings.num_chains, dtype=np.int32)

        @functools.partial(jax.jit, static_argnames="is_first")
        def along(params, key, chunk, u, *, is_first):
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
            forward, u = self._log_weights(along, ladder, base, number, reverse=False)
            ends[number] = u, forward
            reverse, _ = self._log_weights(along, down, starts.x, number, reverse=True)
            brackets.append(
                log_likelihood.Bracket(
                    number,
                    log_likelihood.estimate(forward, log_z_base, reverse=False),
                    log_likelihood.estimate(reverse, log_z_base, reverse=True),
                )
            )
        u, log_weights = ends[max(ends)]
        return Annealed(
            brackets, tuned, starts, self._roughness(starts.x), self._ends(u, log_weights)
        )

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

    def _reverse_starts(self, step_size: float, amount: int) -> Starts:
        """Noised training images, moved by HMC at the lowest level."""
        settings, key = self.settings, jax.random.fold_in(self.key, 2)

        @jax.jit
        def noised(params, x):
            index = jnp.arange(len(x), dtype=jnp.int32)
            return self.path(params).densities.noised(jax.random.fold_in(key, 0), 0, x, index)

        @jax.jit
        def settle(params, x, first_step, num_steps):
            return annealing.settle(
                jax.random.fold_in(key, 1), self.path(params), x, step_size, first_step, num_steps,
                num_leapfrog_steps=settings.num_leapfrog_steps,
            )  # fmt: skip

        # Where images are few, some start more than one chain.
        x = self.images[np.arange(settings.num_chains) % len(self.images)]
        return settled(
            self.reverse,
            lambda: noised(self.params, parallel.spread(x)),
            functools.partial(settle, self.params),
            settings.reverse_steps,
            amount,
        )

    def _log_weights(
        self,
        anneal: Callable[..., samplers.AISResult],
        ladder: Ladder,
        u: jax.Array | np.ndarray,
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


def _no_end(tuned: list[AdaptedTemperature], segment: int) -> str:
    if not tuned:
        return "energies at the base distribution are not finite: train longer"
    return (
        f"annealing does not get beyond beta = {tuned[-1].beta:.3g} of segment {segment}, as "
        "energies are not finite or fall without end: the model has no normalizing constant that "
        "this finds; train longer"
    )
