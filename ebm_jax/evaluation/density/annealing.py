"""Annealed importance sampling from a base distribution through a model's levels to its lowest.

The path has one segment per stage: from the base to the highest level passed, then from level to
level down to 0; inside a segment beta runs from 0 to 1 and E = (1 - beta) E_start + beta E_end.
`tune_step` finds, one temperature after the other, where the temperatures should lie and which step
of HMC suits each; `allocate` makes a ladder of any length of that; `anneal` carries chains along a
segment of it, either way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.evaluation.density.long_run import advance
from ebm_jax.methods.densities import Densities

# A number of the path's; 0 as an int spares a network, see `Path.ends`.
Segment = int | jax.Array | np.ndarray

_TUNED_LENGTH = 0.8  # nats between tuned temperatures
_LEAST_BETA_STEP = 1e-6  # a segment has at most a million temperatures when tuned
_LEAST_LENGTH = 0.02  # of a temperature where the two distributions are nearly the same
_LARGEST_STEP = 0.5  # of HMC, in units of the base distribution's standard deviation or box


class Path(NamedTuple):
    """The path of annealing. levels: the highest first, ending with 0 (a tuple of ints)."""

    densities: Densities
    levels: tuple[int, ...]

    @property
    def num_segments(self) -> int:
        """From the base to the first level, and from each level to the next."""
        return len(self.levels)

    def ends(self, segment: Segment) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """Reflected coordinates u [chains, ...] -> energies [chains] at a segment's start and end.

        Both come from one evaluation of twice the batch: programs with one network compile sooner.
        Of segment 0, known as the int 0 while tracing, only the end is of the network.
        """
        densities, base = self.densities, self.densities.base
        levels = jnp.asarray(self.levels)

        def both(u: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = base.reflect(u)
            if len(self.levels) == 1 or (isinstance(segment, int) and segment == 0):
                return base.energy(u), densities.energy(levels[0])(x)
            level = jnp.stack([levels[jnp.maximum(segment - 1, 0)], levels[segment]])
            energy_fn = densities.energy(jnp.repeat(level, x.shape[0]))
            start, end = jnp.split(energy_fn(jnp.concatenate([x, x])), 2)
            return jnp.where(segment == 0, base.energy(u), start), end

        return both

    def along(self, segment: Segment) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """(u, beta) -> (1 - beta) E_start + beta E_end; at 0 and 1 the other end does not enter."""
        both = self.ends(segment)

        def path(u: jax.Array, beta: jax.Array) -> jax.Array:
            start, end = both(u)
            return jnp.where(beta == 1, 0.0, (1 - beta) * start) + jnp.where(
                beta == 0, 0.0, beta * end
            )

        return path


class AdaptedTemperature(NamedTuple):
    """One temperature of the adapted schedule.

    step_size: of HMC there; acceptance: seen while tuning. length: from the temperature before it,
    in nats: the standard deviation of log weights that HMC can even out. is_stuck: whether tuning
    left chains that do not move, see `samplers.WarmupResult`.
    """

    segment: int
    beta: float
    step_size: float
    acceptance: float
    length: float
    is_stuck: bool = False


class Ladder(NamedTuple):
    """Temperatures of annealing, in chunks of one length. All arrays [chunks, ...].

    segment: int [chunks]. betas: [chunks, length + 1], where a chunk starts and then goes.
    step_sizes: of HMC at each of betas[1:]. Stretches end with repetitions of a beta where a
    segment's number of temperatures is no multiple of the length; these weigh nothing.
    """

    segment: np.ndarray
    betas: np.ndarray
    step_sizes: np.ndarray


def path_levels(sigma_bar: np.ndarray, at_most: int) -> tuple[int, ...]:
    """Levels of the path, from the top to 0: all, or about so many at equal ratios of the noise.

    Args:
      sigma_bar: [levels], growing.
    Raises:
      ValueError: for less than 1.
    """
    if at_most < 1:
        raise ValueError(f"max_levels: expected at least 1, got {at_most}")
    if len(sigma_bar) <= at_most:
        return tuple(range(len(sigma_bar) - 1, -1, -1))
    if at_most == 1:
        return (0,)
    log_sigma = np.log(sigma_bar)
    wanted = np.linspace(log_sigma[-1], log_sigma[0], at_most)
    nearest = np.abs(log_sigma - wanted[:, None]).argmin(1)
    return tuple(sorted({int(level) for level in nearest}, reverse=True))


def tune_step(
    rng_key: jax.Array,
    path: Path,
    segment: Segment,
    beta: jax.Array,
    u_earlier: jax.Array,
    u: jax.Array,
    step_size: jax.Array,
    *,
    num_steps: int,
    num_leapfrog_steps: int,
    target_acceptance: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """From one temperature to the next, whose log weights spread by `_TUNED_LENGTH` nats.

    The spread is what HMC's moves change: std(D(u) - D(u_earlier)) / sqrt(2) per unit of beta, with
    D = E_end - E_start, from mean absolute deviations. Of chains that have mixed this is std(D). Of
    chains trapped in separate modes of unequal depths, std(D) is mostly between modes; it would ask
    for thousands of temperatures, and none of them would make the weights more even.

    Args:
      rng_key: of this temperature. path, segment, beta: where the chains stand.
      u_earlier, u: [chains, ...], reflected coordinates: the chains num_steps of HMC ago (or other
        samples of the same distribution), and now. step_size: of HMC at beta.
      num_steps: of HMC at the new beta, during which its step is adapted, at least 20.
    Returns:
      (beta, u, step_size, acceptance, length, is_stuck) of the new temperature; beta is 1 at a
      segment's end.
    """
    start, end = path.ends(segment)(jnp.concatenate([u_earlier, u]))
    earlier, now = jnp.split(end - start, 2)
    change = now - earlier
    deviation = jnp.mean(jnp.abs(change - jnp.mean(change)))
    spread = deviation * np.sqrt(np.pi / 2) / np.sqrt(2)  # mean |z| of a normal is sqrt(2 / pi)
    step = jnp.maximum(_TUNED_LENGTH / spread, _LEAST_BETA_STEP)
    step = jnp.where(jnp.isfinite(spread), step, jnp.nan)  # shows in the beta returned
    # A rest that is short against the step is taken with it.
    new_beta = jnp.where(beta + 1.1 * step >= 1, 1.0, beta + step)
    along = path.along(segment)
    found = samplers.warmup(
        rng_key,
        lambda step, mass: samplers.hmc(
            lambda u: along(u, new_beta), _capped(step, path), num_leapfrog_steps
        ),
        u,
        num_steps,
        initial_step_size=step_size,
        target_acceptance=target_acceptance,
        adapt_mass=False,
    )
    step_size = _capped(found.step_size, path)
    length = (new_beta - beta) * spread
    return new_beta, found.state.x, step_size, found.acceptance, length, found.is_stuck


def _capped(step_size: jax.Array, path: Path) -> jax.Array:
    base = path.densities.base
    width = base.std if base.box is None else base.box[1] - base.box[0]
    return jnp.minimum(step_size, _LARGEST_STEP * width)


def allocate(tuned: list[AdaptedTemperature], num_temperatures: int, length: int) -> Ladder:
    """A ladder of about num_temperatures, at equal distances in the tuned ones' length.

    Each segment gets its share of them, at least one, and ends with beta = 1. Between two tuned
    temperatures betas are interpolated, step sizes on a logarithmic scale.

    Args:
      tuned: in the order of the path, each segment's last at beta = 1. length: of chunks.
    Raises:
      ValueError: for fewer temperatures than segments.
    """
    segments = sorted({point.segment for point in tuned})
    if num_temperatures < len(segments):
        raise ValueError(
            f"num_temperatures: expected at least {len(segments)}, one for each segment of the "
            f"path, got {num_temperatures}"
        )
    whole = sum(max(point.length, _LEAST_LENGTH) for point in tuned)
    rows: list[tuple[int, np.ndarray, np.ndarray]] = []
    for segment in segments:
        points = [point for point in tuned if point.segment == segment]
        knots = np.cumsum([0.0, *(max(point.length, _LEAST_LENGTH) for point in points)])
        number = max(1, round(num_temperatures * knots[-1] / whole))
        at = np.linspace(0, knots[-1], number + 1)
        betas = np.interp(at, knots, [0.0, *(point.beta for point in points)])
        log_steps = np.log([points[0].step_size, *(point.step_size for point in points)])
        steps = np.exp(np.interp(at, knots, log_steps))
        for first in range(0, number, length):
            picked = np.minimum(np.arange(first, first + length + 1), number)
            rows.append((segment, betas[picked], steps[picked]))
    return Ladder(
        np.asarray([row[0] for row in rows], np.int32),
        np.stack([row[1] for row in rows]).astype(np.float32),
        np.stack([row[2] for row in rows]).astype(np.float32),
    )


def reversed_ladder(ladder: Ladder) -> Ladder:
    """The same temperatures the other way."""
    return Ladder(ladder.segment[::-1], ladder.betas[::-1, ::-1], ladder.step_sizes[::-1, ::-1])


def anneal(
    rng_key: jax.Array,
    path: Path,
    chunk: Ladder,
    u: jax.Array,
    first_chain: jax.Array | int = 0,
    *,
    num_leapfrog_steps: int,
) -> samplers.AISResult:
    """One chunk of annealing, with one step of HMC at each temperature; log weights add up.

    Args:
      rng_key: of this chunk. chunk: one row of a ladder. u: [chains, ...], reflected coordinates.
      first_chain: index of u[0] among all chains.
    """
    return samplers.ais(
        rng_key,
        path.along(chunk.segment),
        u,
        chunk.betas,
        lambda energy_fn, step: samplers.hmc(energy_fn, step, num_leapfrog_steps),
        kernel_params=chunk.step_sizes[1:],
        first_chain=first_chain,
    )


def settle(
    rng_key: jax.Array,
    path: Path,
    x: jax.Array,
    step_size: jax.Array | float,
    first_step: Any,
    num_steps: Any,
    *,
    num_leapfrog_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Steps of HMC at the lowest level, from x [chains, ...], in a loop of traced length.

    Args:
      rng_key: step n uses fold_in(rng_key, n), so that stretches of any length make the same chain.
      first_step, num_steps: ints.
    Returns:
      (x, energies [chains]) after them.
    """
    energy_fn, reflect = path.densities.energy(jnp.asarray(0)), path.densities.base.reflect
    kernel = samplers.hmc(lambda u: energy_fn(reflect(u)), step_size, num_leapfrog_steps)
    state, _ = advance(rng_key, kernel, kernel.init(x), jnp.zeros(()), first_step, num_steps)
    return state.x, energy_fn(reflect(state.x))
