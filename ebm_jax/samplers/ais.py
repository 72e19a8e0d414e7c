"""Annealed importance sampling: ratios of normalizing constants (Neal 2001).

Chains start from draws at `betas[0]` and are carried along a path of energies. Before the move at
`betas[k]`, each collects `E(x, betas[k-1]) - E(x, betas[k])`; the sum over the path is its log
weight `log w`, and `mean w` is an unbiased estimate of `Z(betas[-1]) / Z(betas[0])`, whatever the
length of the path, if the transitions leave each distribution invariant (MALA, HMC, NUTS; not plain
Langevin).
"""

import math
from collections.abc import Callable
from typing import Any, Concatenate, Literal, NamedTuple, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._trees import AnyArray, PyTree, check_positions, is_traced, rows, wide_dtype
from ebm_jax.samplers.base import EnergyFn, Info, Kernel, check_energy
from ebm_jax.samplers.run import Chains, as_index, restart, run_chain, start


class EnergyPath(Protocol):
    """Energies that lead from one distribution to another."""

    def __call__(self, x: PyTree, beta: Array, /) -> Array:
        """Energies [chains] of x [chains, ...] at `beta`, a scalar."""
        ...


# (energy_fn), or (energy_fn, params) where `kernel_params` are given -> a kernel that leaves
# exp(-energy_fn) invariant.
MakeKernel = Callable[Concatenate[EnergyFn, ...], Kernel]


class AISResult(NamedTuple):
    """Estimates of annealed importance sampling, in nats.

    Attributes:
        log_z: estimate of `log Z(betas[-1]) - log Z(betas[0])`, [].
        standard_error: of log_z, from the spread of the weights over chains, [].
        ess: effective number of chains, `(sum w)^2 / sum w^2`, [].
        log_weights: log weight of each chain, [chains].
        x: positions after the move at `betas[-1]`, [chains, ...]; weighted by `log_weights` they
            are draws from that end.
    """

    log_z: Array
    standard_error: Array
    ess: Array
    log_weights: Array
    x: PyTree


class WeightSummary(NamedTuple):
    """Estimates from log weights; the fields mean what they do in AISResult."""

    log_z: Array
    standard_error: Array
    ess: Array


def geometric_path(start_energy: EnergyFn, end_energy: EnergyFn) -> EnergyPath:
    """The path `E(x, beta) = (1 - beta) start_energy(x) + beta end_energy(x)`.

    At 0 and 1 the other end does not enter, neither by its value nor by its gradient, so that both
    may be infinite there. The result compares equal for the same two functions, so that runs along
    it share their compilations.
    """
    return Partial(geometric_path_energy, start_energy, end_energy)


def geometric_path_energy(
    start_energy: EnergyFn, end_energy: EnergyFn, x: PyTree, beta: Array
) -> Array:
    """The energy of `geometric_path`, [chains]."""
    return _weighted(1 - beta, start_energy, x) + _weighted(beta, end_energy, x)


def _weighted(weight: Array, energy_fn: EnergyFn, x: PyTree) -> Array:
    """`weight energy_fn(x)`, and 0 with gradient 0 where the weight is 0, whatever the energy."""
    is_absent = jnp.asarray(weight == 0)

    def masked(leaf: Array) -> Array:
        # 0 times an infinite slope is NaN: this selection discards it on the way back to x.
        mask = is_absent if is_absent.ndim == 0 else rows(is_absent, leaf)
        return jnp.where(mask, jax.lax.stop_gradient(leaf), leaf)

    return jnp.where(is_absent, 0.0, weight * energy_fn(jax.tree.map(masked, x)))


@overload
def ais(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    betas: Any,
    make_kernel: MakeKernel,
    *,
    num_steps: int = ...,
    kernel_params: Any = ...,
    first_chain: Any = ...,
    return_info: Literal[False] = ...,
) -> AISResult: ...


@overload
def ais(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    betas: Any,
    make_kernel: MakeKernel,
    *,
    num_steps: int = ...,
    kernel_params: Any = ...,
    first_chain: Any = ...,
    return_info: Literal[True],
) -> tuple[AISResult, Info]: ...


def ais(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    betas: Any,
    make_kernel: MakeKernel,
    *,
    num_steps: int = 1,
    kernel_params: Any = None,
    first_chain: Any = None,
    return_info: bool = False,
) -> AISResult | tuple[AISResult, Info]:
    """Estimate `log Z(betas[-1]) - log Z(betas[0])` by annealed importance sampling.

    `betas` may run either way. From exact samples of a tractable distribution upwards is forward
    AIS; on average its log_z lies below the truth. From exact or long-run samples of the target
    downwards is reverse AIS: its log_z estimates the difference with the opposite sign, so `-log_z`
    of the reverse run is the estimate that lies above the truth, and the two bracket it:
    `forward.log_z <= truth <= -reverse.log_z`, each up to its standard error.

    One loop over the temperatures; a temperature costs one gradient to enter it and those of
    `num_steps` steps, and the weights cost no energy beyond these. The log weights are summed with
    compensation, in the float type of the energies (float32 at least), so that 10,000 small
    increments to a sum of thousands of nats lose nothing but the rounding of the energies
    themselves. Step j at temperature k uses the key `fold_in(rng_key, (k - 1) num_steps + j)` and
    chain i the draws of its index: the result does not depend on the number of devices. Called
    outside a transformation it compiles once for each (energy_path, make_kernel, number of
    temperatures, shape).

    Over several devices, run it on each one's chains and pass all the log weights to
    `summarize_weights`. A path may be cut into segments: log weights add up.

    Args:
        rng_key: one key.
        energy_path: `(x, beta) -> [chains]`, the energy at `beta` of x [chains, ...]; `beta` is a
            traced scalar.
        x: draws from `exp(-energy_path(x, betas[0]))`, [chains, ...] or a pytree of such.
        betas: [temperatures], at least two; numbers whose meaning is `energy_path`'s.
        make_kernel: `make_kernel(energy_fn) -> Kernel`, such as
            `lambda energy_fn: hmc(energy_fn, 0.1, 5)`. Every temperature begins with the kernel's
            `init`, from which it must leave `exp(-energy_fn)` invariant: MALA, HMC and NUTS do;
            tempering and BAOAB, which carry more than a position, do not.
        num_steps: steps of the kernel at each temperature after the first.
        kernel_params: None, or a pytree of arrays with leading axis [temperatures - 1]: their k-th
            entries go to `make_kernel(energy_fn, params)`, for a step size of its own at each
            temperature `betas[1:]`.
        first_chain: index of the first chain, as in `run_chain`.
        return_info: also return the kernel's Info of each temperature, [temperatures - 1, chains].

    Returns:
        An AISResult, or (AISResult, Info) with `return_info`. A chain that meets a NaN energy has a
        NaN log weight and makes log_z NaN; one that meets an infinite energy has weight 0, and
        where all have, log_z is -inf and ess 0.

    Raises ValueError for fewer than two betas, betas that are not finite or not one-dimensional,
    and `kernel_params` of another length.
    """
    betas = _check_betas(betas, x)
    for leaf in jax.tree.leaves(kernel_params):
        if jnp.shape(leaf)[:1] != (betas.size - 1,):
            raise ValueError(
                f"expected kernel_params of shape [{betas.size - 1}, ...], an entry for each of "
                f"betas[1:], got {jnp.shape(leaf)}"
            )
    log_weights, x, info = compiled(
        _run_path,
        (rng_key, energy_path, x, betas, make_kernel, kernel_params, as_index(first_chain)),
        num_steps=num_steps,
        return_info=return_info,
    )
    result = AISResult(*summarize_weights(log_weights), log_weights, x)
    return (result, info) if return_info else result


def _check_betas(betas: Any, x: PyTree) -> Array:
    check_positions(x)
    if not is_traced(betas) and not np.isfinite(np.asarray(betas)).all():
        raise ValueError("expected finite betas, got one that is not finite")
    betas = jnp.asarray(betas, wide_dtype(jax.tree.leaves(x)[0].dtype))
    if betas.ndim != 1 or betas.size < 2:
        raise ValueError(
            f"expected betas [temperatures], at least two, such as jnp.linspace(0, 1, 101), got "
            f"shape {betas.shape}"
        )
    return betas


def _run_path(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    betas: Array,
    make_kernel: MakeKernel,
    params: PyTree,
    first_chain: Array | None,
    *,
    num_steps: int,
    return_info: bool,
) -> tuple[Array, PyTree, Any]:
    def kernel_at(beta: Array, params: PyTree) -> Kernel:
        given = () if params is None else (params,)
        return make_kernel(lambda x: energy_path(x, beta), *given)

    def temperature(carry: Any, at: Any) -> tuple[Any, Any]:
        chains, energy, log_weights, lost = carry
        k, beta, params = at
        kernel = kernel_at(beta, params)
        state = restart(kernel, chains)
        change = energy - state.energy
        log_weights, lost = _add(log_weights, lost, change)
        state, info = run_chain(rng_key, kernel, state, num_steps, first_step=k * num_steps)
        energy = state.energy.astype(energy.dtype)
        return (Chains.of(state), energy, log_weights, lost), info if return_info else None

    x = jax.tree.map(jnp.asarray, x)
    first_params = jax.tree.map(lambda a: a[0], params)
    chains = Chains.of(start(rng_key, kernel_at(betas[0], first_params), x, first_chain))
    energy = energy_path(x, betas[0])
    check_energy(energy, x)
    energy = energy.astype(wide_dtype(energy.dtype))
    zeros = jnp.zeros_like(energy)
    numbers = jnp.arange(betas.size - 1)
    (chains, _, log_weights, lost), info = jax.lax.scan(
        temperature, (chains, energy, zeros, zeros), (numbers, betas[1:], params)
    )
    return log_weights + jnp.nan_to_num(lost), chains.x, info


def _add(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
    """Neumaier's sum: the new total, and all that rounding has taken from it so far.

    A total of minus infinity (a chain of weight 0) stays there, whatever it meets later.
    """
    new = jnp.where(jnp.isneginf(total), total, total + term)
    lost += jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, lost


def summarize_weights(log_weights: AnyArray) -> WeightSummary:
    """log of the mean weight, its standard error, and the effective number of chains.

    `standard_error = sd(w) / (sqrt(chains) mean(w))`, the delta method on `log mean w`, in nats:
    NaN for one chain, and too small where few of the chains carry the weight (ess near 1). Where
    all weights are 0, log_z is -inf, its standard error infinite and ess 0.

    Args:
        log_weights: [chains], of any size: only differences are exponentiated.

    Raises ValueError unless `log_weights` is [chains] with at least one chain.
    """
    if jnp.ndim(log_weights) != 1 or jnp.size(log_weights) == 0:
        raise ValueError(f"expected log_weights [chains], got shape {jnp.shape(log_weights)}")
    num_chains = log_weights.shape[0]
    log_weights = jnp.asarray(log_weights).astype(wide_dtype(log_weights.dtype))
    highest = jnp.max(log_weights)
    is_zero = jnp.isneginf(highest)

    def finite(value: Array) -> Array:  # any number does where all weights are 0
        return jnp.where(is_zero, num_chains, value)

    weights = jnp.exp(log_weights - finite(highest))
    mean = finite(jnp.mean(weights))
    error = jnp.std(weights, ddof=1) / (math.sqrt(num_chains) * mean)
    return WeightSummary(
        log_z=highest + jnp.log(mean),
        standard_error=jnp.where(is_zero, jnp.inf, error),
        ess=jnp.sum(weights) ** 2 / finite(jnp.sum(weights**2)),
    )


def bootstrap_standard_error(
    rng_key: Array, log_weights: Array, *, num_resamples: int = 1_000
) -> Array:
    """Standard error of `log mean w` by the bootstrap over chains, in nats, [].

    The standard deviation of `log mean w` over `num_resamples` sets of chains drawn with
    replacement; infinite where one of these sets has no weight at all. Beside
    `AISResult.standard_error` it needs no delta method; the two differ where few chains carry the
    weight, and then neither is to be trusted.

    Args:
        rng_key: one key.
        log_weights: [chains].
        num_resamples: number of resampled sets.
    """
    num_chains = log_weights.shape[0]
    chain = jnp.arange(num_chains)

    def resampled(n: Array) -> Array:
        u = random.uniform(random.fold_in(rng_key, n), chain, log_weights)
        return jax.nn.logsumexp(log_weights[(u * num_chains).astype(jnp.int32)])

    estimates: Array = jax.lax.map(resampled, jnp.arange(num_resamples), batch_size=100)
    error = jnp.std(estimates)
    return jnp.where(jnp.isneginf(estimates).any(), jnp.inf, error)
