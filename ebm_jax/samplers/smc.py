"""Tempered sequential Monte Carlo: draws and evidence along a path that adapts itself.

A population at `betas[k]` is weighted for `betas[k + 1]`, resampled by its weights and moved by a
kernel (Del Moral, Doucet & Jasra 2006). The product of the mean weights estimates the ratio of the
normalizing constants: without bias on a ladder that is given, with one of order 1 / chains on a
ladder that follows the population.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._trees import PyTree, check_count, check_positions, is_traced, wide_dtype
from ebm_jax.samplers.ais import EnergyPath, geometric_path_energy, summarize_weights
from ebm_jax.samplers.base import EnergyFn, Kernel, check_energy
from ebm_jax.samplers.run import Chains, as_index, restart, run_chain, start

_BISECTIONS = 24  # of the way to the end: the smallest step is a 16-millionth of it


class MakeAdaptedKernel(Protocol):
    """A transition for each energy of a path, in units of what the population looks like there."""

    def __call__(self, energy_fn: EnergyFn, step_size: Array, mass: PyTree, /) -> Kernel:
        """A kernel that leaves exp(-energy_fn) invariant.

        Args:
            step_size: []; adapted from temperature to temperature.
            mass: 1 / variance of the population along each dimension, [1, ...], structured as the
                positions: what `hmc` takes.
        """
        ...


class SMCResult(NamedTuple):
    """A population at the end of the path, its evidence, and how it got there.

    What has an entry per temperature is [max_temperatures], NaN after the last that was needed.

    Attributes:
        log_z: estimate of `log Z(end) - log Z(start)`, in nats, []; NaN where `max_temperatures`
            did not suffice.
        standard_error: of log_z, from the spread over groups, [].
        x: draws from the end, equally weighted, [chains, ...]; those of a group share ancestors.
        group_log_z: estimates of the groups, which never meet, [groups].
        num_temperatures: how many were needed, [].
        betas: of the temperatures, the start left out.
        ess: effective share of the chains when each was entered, before resampling, in (0, 1].
        step_size: with which the kernel was made.
        acceptance: mean over chains and steps.
    """

    log_z: Array
    standard_error: Array
    x: PyTree
    group_log_z: Array
    num_temperatures: Array
    betas: Array
    ess: Array
    step_size: Array
    acceptance: Array


def smc(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    make_kernel: MakeAdaptedKernel,
    *,
    step_size: Any,
    num_steps: int = 5,
    betas: Any = (0.0, 1.0),
    target_ess: float = 0.5,
    target_acceptance: float = 0.8,
    num_groups: int = 8,
    max_temperatures: int = 500,
    first_chain: Any = None,
) -> SMCResult:
    """Carry draws from one end of a path to the other by adaptive tempered SMC.

    The next temperature is the one at which the effective sample size of the weights,
    `(sum w)^2 / sum w^2`, has fallen to a share `target_ess` of the chains. Chains are resampled
    systematically within their group, and then make `num_steps` steps of the kernel. After each
    temperature `log step_size` is raised by the mean acceptance less `target_acceptance`.

    Unlike in AIS, chains that turn out to be of little weight are replaced. A ladder that is chosen
    by the population that it is for puts its evidence low, in proportion to 1 / chains: a second
    run with the `betas` of the first is free of that. Wherever the end is wider than the start the
    weights have heavy tails, and no error shows them: start from the wider one.

    A temperature costs one gradient to enter, those of its steps, and energies to choose the next
    by: two for a `geometric_path`, else 24. Called outside a transformation it compiles once for
    each (energy_path, make_kernel, shape).

    Args:
        rng_key: one key.
        energy_path: `(x, beta) -> [chains]`, such as `geometric_path(start_energy, end_energy)`.
        x: exact draws from `exp(-energy_path(x, betas[0]))`, [chains, ...] or a pytree of such; a
            multiple of `num_groups`.
        make_kernel: such as
            `lambda energy_fn, h, mass: hmc(energy_fn, h, 10, mass=mass)`.
        step_size: at the first temperature, > 0.
        num_steps: steps of the kernel at each temperature.
        betas: (start, end), or a whole ladder of them, which is then followed as it is; numbers
            whose meaning is `energy_path`'s.
        target_ess: in (0, 1): nearer to 1 is slower and better.
        target_acceptance: in (0, 1).
        num_groups: populations that share the temperatures and nothing else, at least 2: their
            spread is the standard error. Each needs some tens of chains.
        max_temperatures: bound on their number.
        first_chain: index of the first chain, as in `run_chain`.

    Returns:
        An SMCResult. A chain that meets a NaN energy is one of weight 0. Where no chain of a group
        has any weight its log_z is -inf; where none at all has, it ends there.

    Raises ValueError for a number out of range, betas of which two neighbors are equal, and chains
    that groups do not divide.
    """
    for name, share in (("target_ess", target_ess), ("target_acceptance", target_acceptance)):
        if not 0 < share < 1:
            raise ValueError(f"expected 0 < {name} < 1, got {share}")
    for name, count in (("num_steps", num_steps), ("max_temperatures", max_temperatures)):
        check_count(count, name)
    check_count(num_groups, "num_groups")
    num_chains = check_positions(x)
    if num_groups < 2 or num_chains % num_groups:
        raise ValueError(
            f"expected num_groups >= 2 that divides the {num_chains} chains, got {num_groups}"
        )
    ladder = np.asarray(betas, float)
    if ladder.ndim != 1 or len(ladder) < 2 or not np.all(np.abs(np.diff(ladder)) > 0):
        raise ValueError(f"expected betas (start, .., end), neighbors different, got {betas}")
    if not is_traced(step_size) and not float(step_size) > 0:
        raise ValueError(f"expected step_size > 0, got {step_size}")
    dtype = wide_dtype(jax.tree.leaves(x)[0].dtype)
    return compiled(
        _run,
        (
            rng_key, energy_path, x, make_kernel, jnp.asarray(step_size, dtype),
            jnp.asarray(ladder, dtype), jnp.asarray([target_ess, target_acceptance], dtype),
            as_index(first_chain),
        ),
        num_steps=int(num_steps),
        num_groups=int(num_groups),
        max_temperatures=int(max_temperatures) if len(ladder) == 2 else len(ladder) - 1,
    )  # fmt: skip


class _Population(NamedTuple):
    """Where the loop is: temperatures done, the newest beta, its chains, and what was found."""

    done: Array
    beta: Array
    chains: Chains
    log_z: Array  # [groups]
    step_size: Array
    record: dict[str, Array]  # [max_temperatures] each


def _run(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    make_kernel: MakeAdaptedKernel,
    step_size: Array,
    betas: Array,
    targets: Array,
    first_chain: Array | None,
    *,
    num_steps: int,
    num_groups: int,
    max_temperatures: int,
) -> SMCResult:
    target_ess, target_acceptance = targets
    first, end = betas[0], betas[-1]
    is_given = betas.shape[0] > 2

    def kernel_at(beta: Array, step_size: Array, x: PyTree) -> Kernel:
        return make_kernel(lambda x: energy_path(x, beta), step_size, _mass(x))

    def temperature(at: _Population) -> _Population:
        chains = at.chains
        energies = _energies(energy_path, chains.x)
        here = energies(at.beta)

        def weights_at(beta: Array) -> Array:
            change = here - energies(beta)
            return jnp.where(jnp.isnan(change), -jnp.inf, change)

        if is_given:
            beta = betas[at.done + 1]
        else:
            beta = _next_beta(lambda beta: _ess(weights_at(beta)), at.beta, end, target_ess)
        log_weights = weights_at(beta)
        groups = log_weights.reshape(num_groups, -1)
        log_mean = jax.nn.logsumexp(groups, axis=1) - math.log(groups.shape[1])
        key = random.fold_in(rng_key, at.done)
        source = _resample(random.fold_in(key, num_steps), groups)
        moved = chains._replace(
            **jax.tree.map(lambda a: a[source], {"x": chains.x, "remainder": chains.remainder})
        )
        kernel = kernel_at(beta, at.step_size, moved.x)
        state, info = run_chain(key, kernel, restart(kernel, moved), num_steps)
        acceptance = jnp.mean(info.acceptance).astype(at.step_size.dtype)
        found = {
            "betas": beta, "ess": _ess(log_weights), "step_size": at.step_size,
            "acceptance": acceptance,
        }  # fmt: skip
        return _Population(
            at.done + 1,
            beta,
            Chains.of(state),
            at.log_z + log_mean,
            at.step_size * jnp.exp(acceptance - target_acceptance),
            {name: at.record[name].at[at.done].set(value) for name, value in found.items()},
        )

    x = jax.tree.map(jnp.asarray, x)
    energy = energy_path(x, first)
    check_energy(energy, x)
    nothing = jnp.full(max_temperatures, jnp.nan, step_size.dtype)
    begin = _Population(
        jnp.int32(0),
        first,
        Chains.of(start(rng_key, kernel_at(first, step_size, x), x, first_chain)),
        jnp.zeros(num_groups, wide_dtype(energy.dtype)),
        step_size,
        dict.fromkeys(("betas", "ess", "step_size", "acceptance"), nothing),
    )

    def is_empty(at: _Population) -> Array:  # for good: nothing has any weight
        return jnp.all(jnp.isneginf(at.log_z))

    def goes_on(at: _Population) -> Array:
        return (is_given | (at.beta != end)) & (at.done < max_temperatures) & ~is_empty(at)

    found = jax.lax.while_loop(goes_on, temperature, begin)
    is_there = (found.beta == end) | is_empty(found)
    evidence = summarize_weights(found.log_z)
    return SMCResult(
        log_z=jnp.where(is_there, evidence.log_z, jnp.nan),
        standard_error=jnp.where(is_there, evidence.standard_error, jnp.nan),
        x=found.chains.x,
        group_log_z=found.log_z,
        num_temperatures=found.done,
        **found.record,
    )


def _mass(x: PyTree) -> PyTree:
    """1 / variance of the population along each dimension, [1, ...], float32 at least, finite."""

    def one(leaf: Array) -> Array:
        wide = leaf.astype(wide_dtype(leaf.dtype))
        return 1 / jnp.maximum(jnp.var(wide, axis=0, keepdims=True), jnp.finfo(wide.dtype).tiny)

    return jax.tree.map(one, x)


def _energies(energy_path: EnergyPath, x: PyTree) -> Callable[[Array], Array]:
    """beta -> the path's energies of x, [chains]; those of a geometric path from its two ends."""
    if isinstance(energy_path, Partial) and energy_path.func is geometric_path_energy:
        path_start, path_end = (energy_fn(x) for energy_fn in energy_path.args)

        def linear(beta: Array) -> Array:
            at_start = jnp.where(beta == 1, 0, (1 - beta) * path_start)
            return at_start + jnp.where(beta == 0, 0, beta * path_end)

        return linear
    return lambda beta: energy_path(x, beta)


def _next_beta(ess: Callable[[Array], Array], beta: Array, end: Array, target: Array) -> Array:
    """Where the effective share falls to the target; the end, if it does not before."""

    def halve(_: Any, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        near, far = interval
        middle = (near + far) / 2
        enough = ess(middle) >= target
        return jnp.where(enough, middle, near), jnp.where(enough, far, middle)

    near, far = jax.lax.fori_loop(0, _BISECTIONS, halve, (beta, end))
    found = jnp.where(near == beta, far, near)  # never none at all
    return jnp.where(ess(end) >= target, end, found)


def _ess(log_weights: Array) -> Array:
    """`(sum w)^2 / (chains sum w^2)`; 0 where there is no weight."""
    highest = jnp.max(log_weights)
    weights = jnp.exp(log_weights - jnp.nan_to_num(highest))
    squares = jnp.mean(weights**2)
    return jnp.mean(weights) ** 2 / jnp.where(squares > 0, squares, jnp.inf)


def _resample(rng_key: Array, log_weights: Array) -> Array:
    """Systematic resampling in each group: which chain each place takes, int [chains].

    log_weights: [groups, chains of a group].
    """
    num_groups, size = log_weights.shape
    highest = jnp.max(log_weights, axis=1, keepdims=True)
    weights = jnp.exp(log_weights - jnp.nan_to_num(highest))
    total = jnp.sum(weights, axis=1, keepdims=True)
    shares = jnp.where(total > 0, weights / total, jnp.ones_like(weights))
    group = jnp.arange(num_groups)
    u = random.uniform(rng_key, group, (), log_weights.dtype)
    places = (jnp.arange(size) + u[:, None]) / size
    ends = jnp.cumsum(shares, axis=1)
    # Rounding leaves the last end a little off 1; the place of the last share has to be below it.
    chosen = jax.vmap(jnp.searchsorted)(ends / ends[:, -1:], places)
    return (chosen + size * group[:, None]).reshape(-1)
