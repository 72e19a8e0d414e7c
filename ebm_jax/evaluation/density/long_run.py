"""Chains far longer than those of training, and a diagnosis of the energy from where they go.

A model whose long chains stay where its data are has learned their density; one whose chains drift
away or saturate has learned a sampler of short runs (Nijkamp et al. 2019, arXiv 1903.12370). What
is kept of a chain does not grow with its length.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import energy, samplers
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.samplers import random

NUM_KEPT = 50  # states of the second half of a run that R-hat compares
NUM_VALUES = 256  # of an image, at equal distances, that R-hat is taken of
_EDGE = 0.01  # of the range of pixel intensities: as near to an end of it counts as saturated
_TUNING_STEPS = 50
_NUM_SPLITS = 20  # of the real images, from which the floor of a Frechet distance is known
SAMPLERS = ("langevin", "mala", "hmc")

MakeKernel = Callable[[energy.EnergyFn, jax.Array], samplers.Kernel]  # (energy, step size)


class Record(NamedTuple):
    """Where the chains are after a number of steps; means over chains unless said otherwise.

    energy: the level's marginal one, in nats, and its standard deviation over chains.
    grad_norm: nats per model unit. displacement: from where they began at this level, model units.
    acceptance: over the steps since the last record. contrast: standard deviation of all values.
    saturated: share of the values at or beyond the ends of the range. frechet: over pixels to real
    images with the level's noise, NaN where it was not measured.
    """

    step: int
    level: int
    energy: float
    energy_std: float
    grad_norm: float
    displacement: float
    acceptance: float
    contrast: float
    saturated: float
    frechet: float


class Reference(NamedTuple):
    """The same metrics of real images with the level's noise. fit: of them, or None: too few.

    frechet_floor: of as many real images as there are chains to the others, the mean over random
    choices of them, and its standard deviation: what a perfect model's chains would have.
    """

    energy: float
    energy_std: float
    contrast: float
    saturated: float
    fit: frechet.GaussianFit | None
    frechet_floor: float
    frechet_floor_std: float


class Diagnosis(NamedTuple):
    """word: 'stable', 'drifting', 'saturated' or 'diverged'; reasons: the metrics behind it."""

    word: str
    reasons: list[str]


def record_steps(num_steps: int) -> list[int]:
    """0, 1, 2, .. 10, 20, .. 100, 200, .. and the last."""
    steps, unit = [0], 1
    while steps[-1] < num_steps:
        steps += [n * unit for n in range(1, 10) if n * unit < num_steps]
        unit *= 10
        if unit >= num_steps:
            steps.append(num_steps)
    return steps


def figure_steps(num_steps: int) -> list[int]:
    """0, 10, 100, .. and the last."""
    powers = [10**k for k in range(1, len(str(num_steps))) if 10**k < num_steps]
    return [0, *powers, num_steps]


def kept_steps(num_steps: int) -> list[int]:
    """`NUM_KEPT` steps of the second half at equal distances, or as many as there are."""
    stride = max(1, num_steps // (2 * NUM_KEPT))
    return list(range(num_steps, num_steps // 2, -stride))[NUM_KEPT - 1 :: -1]


def tuned_places(width: np.ndarray) -> list[int]:
    """Where chains that pass levels of these widths, the highest first, tune their step anew.

    The first, and then the next whose width is a tenth apart, or a twentieth of all levels away;
    those between take the step as it is.

    Args:
      width: of each level's conditional, `Densities.conditional_std`.
    """
    places = [0]
    for place in range(1, len(width)):
        is_near = width[place] / 1.1 < width[places[-1]] < 1.1 * width[place]
        if not is_near or place - places[-1] >= len(width) / 20:
            places.append(place)
    return places


def make_kernel(name: str, num_leapfrog_steps: int) -> MakeKernel:
    """A sampler by name, at temperature 1.

    Raises:
      ValueError: for another name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {name!r}")
    if name == "langevin":
        return samplers.langevin
    if name == "mala":
        return samplers.mala
    return lambda energy_fn, step: samplers.hmc(energy_fn, step, num_leapfrog_steps)


def advance(
    rng_key: jax.Array,
    kernel: samplers.Kernel,
    state: Any,
    accepted: jax.Array,
    first_step: Any,
    num_steps: Any,
) -> tuple[Any, jax.Array]:
    """So many steps, as `samplers.run_chain` makes them, in a loop of traced length.

    One program makes stretches of any length, so that results do not depend on where they end.

    Args:
      rng_key: step n uses fold_in(rng_key, n). state: the kernel's, of chains [chains, ...].
      accepted: [], to which the mean acceptance over chains of each step is added. first_step,
        num_steps: ints.
    Returns:
      (state, accepted) after the steps.
    """

    def body(n, carry):
        state, accepted = carry
        state, info = kernel.step(random.fold_in(rng_key, n), state)
        return state, accepted + jnp.mean(info.acceptance)

    return jax.lax.fori_loop(first_step, first_step + num_steps, body, (state, accepted))


def tuned_step(
    rng_key: jax.Array, make: MakeKernel, energy_fn: energy.EnergyFn, x: jax.Array, first: Any
) -> tuple[jax.Array, jax.Array]:
    """(step size, is_stuck) of MALA or HMC with an acceptance of about .75, found from x.

    is_stuck: whether chains do not move all the same, see `samplers.WarmupResult`.
    """
    found = samplers.warmup(
        rng_key,
        lambda step, mass: make(energy_fn, step),
        x,
        _TUNING_STEPS,
        initial_step_size=first,
        target_acceptance=0.75,
        adapt_mass=False,
    )
    return found.step_size, found.is_stuck


def saturated_share(x: np.ndarray, low: float, high: float) -> float:
    """Share of the values within a hundredth of the range of its ends, or beyond them."""
    edge = _EDGE * (high - low)
    return float(np.mean((x <= low + edge) | (x >= high - edge)))


def reference(
    x: np.ndarray, energies: np.ndarray, num_chains: int, *, low: float, high: float
) -> tuple[Reference, str | None]:
    """Metrics of real images x [n, ...] at the level, and why there is no Frechet distance.

    The fit is of all but the first num_chains, from which chains may start.
    """
    fit, floors = None, [np.nan, np.nan]
    num_values = math.prod(x.shape[1:])
    reason = frechet.why_undefined(min(num_chains, len(x) - num_chains), num_values)
    if reason is None:
        fit = frechet.fit_gaussian(x[num_chains:])
        rng = np.random.default_rng(0)
        shuffled = (x[rng.permutation(len(x))] for _ in range(_NUM_SPLITS))
        floors = [_frechet_of_split(images, num_chains) for images in shuffled]
    energies = np.asarray(energies, np.float64)
    metrics = Reference(
        float(energies.mean()),
        float(energies.std(ddof=1)),
        float(np.std(x)),
        saturated_share(x, low, high),
        fit,
        float(np.mean(floors)),
        float(np.std(floors, ddof=1)),
    )
    return metrics, reason


def _frechet_of_split(x: np.ndarray, first: int) -> float:
    """Frechet distance of the first images to the others."""
    return frechet.frechet_distance(
        frechet.fit_gaussian(x[:first]), frechet.fit_gaussian(x[first:])
    )


def record(
    step: int,
    level: int,
    x: np.ndarray,
    start: np.ndarray,
    energies: np.ndarray,
    grad: np.ndarray,
    acceptance: float,
    real: Reference,
    *,
    low: float,
    high: float,
) -> Record:
    """Metrics of chains x [chains, ...] that began at start."""
    axes = tuple(range(1, x.ndim))
    finite = np.all(np.isfinite(x))
    distance = float("nan")
    if real.fit is not None and finite:
        distance = frechet.frechet_distance(frechet.fit_gaussian(x), real.fit)
    with np.errstate(all="ignore"):  # chains may be beyond the range of floats
        return Record(
            step,
            level,
            float(np.mean(energies)),
            float(np.std(energies)),
            float(np.mean(np.sqrt(np.sum(np.square(grad), axes)))),
            float(np.mean(np.sqrt(np.sum(np.square(x - start), axes)))),
            acceptance,
            float(np.std(x)),
            saturated_share(x, low, high),
            distance,
        )


def r_hat(draws: np.ndarray, energies: np.ndarray) -> dict[str, float]:
    """Split R-hat over chains: of the energy, and the median and largest of an image's values.

    Args:
      draws: [draws, chains, values]. energies: [draws, chains].
    """
    if len(draws) < 4:
        return {"energy": float("nan"), "median_of_values": float("nan"), "largest": float("nan")}
    values = samplers.split_r_hat(draws)
    return {
        "energy": float(samplers.split_r_hat(energies)),
        "median_of_values": float(np.nanmedian(values)),
        "largest": float(np.nanmax(values)),
    }


def diagnose(records: Sequence[Record], real: Reference) -> Diagnosis:
    """Diagnoses, in one word, the last nine tenths of the steps at the last level.

    'diverged': values or energies are not finite. 'saturated': the values' standard deviation is
    over 1.25 times that of real images, or the share of them at the ends of the range is over .2
    larger. 'drifting': since a tenth of the run the mean energy moved by more than one standard
    deviation over chains, or the Frechet distance ended over 1.5 times the floor of real images and
    three of its standard deviations, or the mean energy is over 3 standard deviations away from
    that of real images, or the values' standard deviation is below .75 of theirs. Else 'stable'.
    """
    last = records[-1]
    here = [r for r in records if r.level == last.level]
    begin, end = here[0].step, last.step
    tenth = next(r for r in here if r.step - begin >= (end - begin) / 10)
    values = (last.energy, last.grad_norm, last.displacement)
    if not np.all(np.isfinite(values)):
        return Diagnosis("diverged", [f"energies or values are not finite at step {last.step:,}"])
    spread = max(tenth.energy_std, 1e-6 * abs(tenth.energy), 1e-12)
    moved = (last.energy - tenth.energy) / spread
    away = (last.energy - real.energy) / max(real.energy_std, 1e-12)
    contrast = last.contrast / max(real.contrast, 1e-12)
    more = last.saturated - real.saturated
    reasons = [
        f"from step {tenth.step:,} to {last.step:,} the mean energy moved by {moved:+.2f} standard "
        f"deviations over chains, from {tenth.energy:.4g} to {last.energy:.4g} nats",
        f"it is {away:+.2f} standard deviations from that of real images, {real.energy:.4g}",
        f"the values' standard deviation is {contrast:.3f} times that of real images, and "
        f"{more:+.1%} more of them lie at the ends of the range",
        f"chains are {last.displacement:.3g} model units from where they began",
    ]
    is_far = False
    if np.isfinite(last.frechet) and np.isfinite(tenth.frechet):
        is_far = last.frechet > 1.5 * real.frechet_floor + 3 * real.frechet_floor_std
        reasons.append(
            f"the Frechet distance over pixels went from {tenth.frechet:.4g} to {last.frechet:.4g};"
            f" of as many real images it is {real.frechet_floor:.4g} ± {real.frechet_floor_std:.2g}"
        )
    if contrast > 1.25 or more > 0.2:
        return Diagnosis("saturated", reasons)
    if abs(moved) > 1 or is_far or abs(away) > 3 or contrast < 0.75:
        return Diagnosis("drifting", reasons)
    return Diagnosis("stable", reasons)
