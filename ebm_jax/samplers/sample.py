"""One call from a log density to draws: warm-up, chains, diagnostics, and a verdict in words."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers._trees import PyTree, check_count, check_positions, is_traced, leaf_names
from ebm_jax.samplers.arviz import to_arviz
from ebm_jax.samplers.base import EnergyFn, LogDensityFn, from_log_density
from ebm_jax.samplers.diagnostics import Summary, summarize
from ebm_jax.samplers.hmc import HMCInfo, hmc
from ebm_jax.samplers.run import run_chain
from ebm_jax.samplers.warmup import WarmupResult, warmup

# Vehtari et al. (2021) advise both: R-hat below 1.01, and 400 effective draws, of the bulk and of
# the tails, below which R-hat itself is too noisy to be read.
MOST_R_HAT = 1.01
LEAST_ESS = 400
# A chain that stands at one point for this part of its draws is where its steps do not fit.
_LONGEST_REST = 0.05
_LOG_DENSITY = "log density"  # watched beside the positions: it moves where they only spread


class Diagnostics(NamedTuple):
    """The numbers that `sample` judges its draws by.

    Attributes:
        components: mean, sd, their errors, ESS and R-hat; each a tree shaped as one position.
        log_density: the same of the draws' log densities, each [].
        acceptance: mean over each chain's steps, [chains].
        is_divergent: whether a step to this draw diverged, bool [chains, draws]; see `HMCInfo`.
        longest_rest: most draws in a row that a chain stood at one point for, int [chains].
        is_stuck: whether that is more than a twentieth of its draws, bool [chains].
    """

    components: Summary
    log_density: Summary
    acceptance: jax.Array
    is_divergent: jax.Array
    longest_rest: np.ndarray
    is_stuck: np.ndarray


@dataclasses.dataclass(frozen=True)
class SampleResult:
    """Draws of several chains, and whether to trust them.

    Attributes:
        draws: [chains, draws, ...], or a tree of such with the structure and names of the starts.
        log_density: of each draw, as `logdensity_fn` gives it, [chains, draws].
        diagnostics: the numbers behind the verdict.
        reasons: why the draws are not to be trusted, a sentence each; () where nothing is known
            against them.
        summary: the verdict and its reasons in words, for a person.
        warmup: step size, mass and what else the warm-up found.
        state: of the chains at their end, to be continued by `run_chain`.
        info: of each draw, [draws, chains], as `run_chain` stacks it; its `kept` is None.
    """

    draws: PyTree
    log_density: jax.Array
    diagnostics: Diagnostics
    reasons: tuple[str, ...]
    summary: str
    warmup: WarmupResult
    state: Any
    info: HMCInfo

    @property
    def is_trustworthy(self) -> bool:
        """Whether nothing is known against the draws."""
        return not self.reasons

    def to_arviz(
        self,
        *,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """The draws as `arviz.InferenceData`, see `to_arviz`."""
        info = self.info._replace(kept=_chains_first(self.draws))
        return to_arviz(info, log_density=self.log_density.T, coords=coords, dims=dims)


def sample(
    logdensity_fn: LogDensityFn,
    rng_key: jax.Array,
    x: PyTree,
    *,
    num_draws: int = 1_000,
    num_warmup: int = 1_000,
    num_leapfrog_steps: int = 8,
    steps_per_draw: int = 1,
    target_acceptance: float = 0.8,
) -> SampleResult:
    """Draw from a log density: warm up, run chains of HMC, diagnose, and say whether to trust them.

    Takes a log density of ONE position, as BlackJAX and NumPyro do, and not an energy: the draws
    are of p(x) ∝ exp(logdensity_fn(x)). Where an energy [chains, ...] -> [chains] is at hand, or
    another kernel wanted, `warmup` and `run_chain` are the parts that this is made of.

    Draws are untrustworthy where R-hat of a component or of the log density is 1.01 or more, where
    bulk or tail have fewer than 400 effective draws, where steps diverged, where chains stand
    still or accept less than half of what the warm-up aimed at, and where there is one chain.
    None of these can see a region that no chain has been to: start the chains far apart.

    Example:
        result = sample(lambda x: -0.5 * jnp.sum(x**2), key, 3 * jax.random.normal(key2, (4, 10)))
        print(result.summary)
        result.draws  # [4, 1000, 10]

    Args:
        logdensity_fn: one position (no chain axis) -> its log density [], up to a constant.
        rng_key: one key, typed or raw.
        x: starts [chains, ...] or a pytree of such: four chains or more, wider apart than the draws
            are expected to be.
        num_draws: kept of each chain, at least 4.
        num_warmup: steps of the warm-up before them, at least 20.
        num_leapfrog_steps: L of HMC, the gradients of each step.
        steps_per_draw: steps from one draw to the next; more save memory.
        target_acceptance: what the warm-up aims at; nearer to 1 makes smaller steps, which go
            through narrow places.

    Returns:
        A SampleResult. Runs on the host between its parts, so not inside `jit`.

    Raises ValueError for counts that are too small, and for a start whose log density is not
    finite; TypeError inside a transformation.
    """
    num_chains = check_positions(x)
    for value, name in ((num_draws, "num_draws"), (steps_per_draw, "steps_per_draw")):
        check_count(value, name)
    if num_draws < 4:
        raise ValueError(f"expected num_draws of at least 4, better 1,000, got {num_draws}")
    if any(is_traced(leaf) for leaf in jax.tree.leaves((x, rng_key))):
        raise TypeError("expected sample outside of jit and vmap; inside, use warmup and run_chain")
    energy_fn = from_log_density(logdensity_fn)
    _check_starts(energy_fn, x)
    warmup_key, run_key = jax.random.split(rng_key)
    with warnings.catch_warnings():  # of chains that are stuck: the verdict says it
        warnings.simplefilter("ignore", UserWarning)
        found = warmup(
            warmup_key,
            lambda step_size, mass: hmc(energy_fn, step_size, num_leapfrog_steps, mass=mass),
            x,
            num_warmup,
            target_acceptance=target_acceptance,
        )
    state, info = run_chain(
        run_key,
        hmc(energy_fn, found.step_size, num_leapfrog_steps, mass=found.mass),
        found.state,
        num_draws * steps_per_draw,
        keep_every=steps_per_draw,
        keep=_position_and_energy,
    )
    positions, energies = info.kept
    log_density = -energies
    longest_rest = _longest_run(np.asarray(info.displacement) == 0)
    diagnostics = Diagnostics(
        components=summarize(positions),
        log_density=summarize(log_density),
        acceptance=jnp.mean(info.acceptance, axis=0),
        is_divergent=info.is_divergent.T,
        longest_rest=longest_rest,
        is_stuck=longest_rest > max(_LONGEST_REST * num_draws, 2),
    )
    reasons = tuple(_reasons(diagnostics, found, target_acceptance))
    return SampleResult(
        draws=_chains_first(positions),
        log_density=log_density.T,
        diagnostics=diagnostics,
        reasons=reasons,
        summary=_summary(diagnostics, reasons, num_chains, num_draws),
        warmup=found,
        state=state,
        info=info._replace(kept=None),
    )


def _position_and_energy(state: Any) -> tuple[PyTree, jax.Array]:
    return state.x, state.energy


def _chains_first(draws: PyTree) -> PyTree:
    """[draws, chains, ...] <-> [chains, draws, ...]."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), draws)


def _check_starts(energy_fn: EnergyFn, x: PyTree) -> None:
    # `check_energy` of the kernels tells of other shapes, with a hint.
    is_bad = ~np.isfinite(np.asarray(jax.jit(energy_fn)(x), np.float64))
    if is_bad.any():
        raise ValueError(
            f"expected starts with a finite log density, got {int(is_bad.sum())} of "
            f"{is_bad.size} without one, first of chain {int(np.argmax(is_bad))}"
        )


def _longest_run(is_still: np.ndarray) -> np.ndarray:
    """Longest run of True in each column of [draws, chains]."""
    run = longest = np.zeros(is_still.shape[1], int)
    for row in is_still:
        run = np.where(row, run + 1, 0)
        longest = np.maximum(longest, run)
    return longest


def _worst(
    diagnostics: Diagnostics, field: str, choose: Callable[[np.ndarray], Any]
) -> tuple[float, str]:
    """(value, name of the component) that `choose` (argmax or argmin) picks of a Summary's field.

    A NaN counts as the worst of all.
    """

    def candidates() -> Iterator[tuple[float, str]]:
        tree = getattr(diagnostics.components, field)
        for name, leaf in leaf_names(tree).items():
            values = np.asarray(leaf, np.float64)
            is_nan = np.isnan(values)
            flat = int(np.argmax(is_nan) if is_nan.any() else choose(values))
            place = [int(i) for i in np.unravel_index(flat, values.shape)]
            yield values.flat[flat], f"{name}{place}" if place else name
        yield float(getattr(diagnostics.log_density, field)), _LOG_DENSITY

    found = list(candidates())
    values = np.array([value for value, _ in found])
    return found[int(np.argmax(np.isnan(values)) if np.isnan(values).any() else choose(values))]


def _reasons(
    diagnostics: Diagnostics, found: WarmupResult, target_acceptance: float
) -> Iterator[str]:
    """A sentence for each thing that is known against the draws, and what to do about it."""
    num_chains, num_draws = diagnostics.is_divergent.shape
    if num_chains == 1:
        yield "there is one chain, which has no other to disagree with: start four or more"
    if found.is_stuck:
        yield (
            f"warm-up left chains that do not move (step size {float(found.step_size):.2g}, "
            f"acceptance {float(found.acceptance):.2f}): look for a log density that is rough or "
            "infinite near by, see samplers.roughness"
        )
    r_hat, name = _worst(diagnostics, "r_hat", np.argmax)
    if np.isnan(r_hat):
        yield f"all draws of {name} are equal: it cannot be told whether they should be"
    elif r_hat >= MOST_R_HAT:
        yield (
            f"the chains disagree: R-hat of {name} is {r_hat:.3f}, at most {MOST_R_HAT} is good: "
            "run longer, or where modes are far apart use parallel_tempering"
        )
    for field, where in (("ess_bulk", "bulk"), ("ess_tail", "tails")):
        ess, name = _worst(diagnostics, field, np.argmin)
        if not ess >= LEAST_ESS:
            yield (
                f"too few effective draws: {ess:.0f} in the {where} of {name}, {LEAST_ESS} are "
                "enough: draw more"
            )
    if num_divergent := int(np.sum(diagnostics.is_divergent)):
        yield (
            f"{num_divergent:,} of {num_chains * num_draws:,} draws follow a step that diverged: "
            "the density is steeper somewhere than the steps allow, and what lies there is missed: "
            "raise target_acceptance, or parametrize anew"
        )
    if stuck := np.flatnonzero(diagnostics.is_stuck).tolist():
        yield (
            f"{_chains(stuck)} stood at one point for up to {int(diagnostics.longest_rest.max())} "
            f"draws in a row: raise target_acceptance, or parametrize anew"
        )
    is_low = diagnostics.acceptance < 0.5 * target_acceptance
    if low := [chain for chain in np.flatnonzero(is_low).tolist() if chain not in stuck]:
        yield (
            f"{_chains(low)} accepted {float(np.min(diagnostics.acceptance)):.2f} at least, where "
            f"warm-up aimed at {target_acceptance:.2f}: other places want other steps than those "
            "of the warm-up: warm up longer, or parametrize anew"
        )


def _chains(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"chain {shown}" if len(numbers) == 1 else f"{len(numbers)} chains ({shown})"


def _summary(
    diagnostics: Diagnostics, reasons: tuple[str, ...], num_chains: int, num_draws: int
) -> str:
    what = f"{num_chains} chain{'s' if num_chains > 1 else ''} of {num_draws:,} draws"
    if reasons:
        return "\n".join([f"Do not trust these draws ({what}):", *(f"- {r}" for r in reasons)])
    r_hat, widest = _worst(diagnostics, "r_hat", np.argmax)
    bulk, tail = (_worst(diagnostics, field, np.argmin) for field in ("ess_bulk", "ess_tail"))
    return (
        f"Nothing speaks against these draws ({what}): the chains agree (R-hat at most {r_hat:.3f},"
        f" of {widest}), there are at least {bulk[0]:,.0f} effective draws in the bulk "
        f"({bulk[1]}) and {tail[0]:,.0f} in the tails ({tail[1]}), no step diverged, and "
        f"{float(np.mean(diagnostics.acceptance)):.2f} of the moves were accepted.\n"
        "Regions that no chain has been to cannot be seen: start chains far apart."
    )
