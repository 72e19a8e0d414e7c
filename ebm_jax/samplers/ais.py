"""Annealed importance sampling: ratios of normalising constants (Neal 2001).

Chains start from draws at `betas[0]` and are carried along a path of energies. Before the move at
`betas[k]`, each collects `E(x, betas[k-1]) - E(x, betas[k])`; the sum over the path is its log
weight `log w`, and `mean w` is an unbiased estimate of `Z(betas[-1]) / Z(betas[0])`, whatever the
length of the path, if the transitions leave each law invariant (MALA, HMC, NUTS; not plain
Langevin).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers.base import EnergyFn, Info, Kernel, check_energy
from ebm_jax.samplers.chains import compiled, run_chain, start
from ebm_jax.samplers.positions import PyTree, check_positions

EnergyPath = Callable[[PyTree, Array], Array]


class AISResult(NamedTuple):
    """What annealed importance sampling estimates, in nats.

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

    At 0 and 1 the other end does not enter, so that it may be infinite there. The result compares
    equal for the same two functions, so that runs along it share their compilations.
    """
    return Partial(_geometric, start_energy, end_energy)


def _geometric(start_energy, end_energy, x, beta):
    def weighted(weight, energy):
        return jnp.where(weight == 0, 0.0, weight * energy)

    return weighted(1 - beta, start_energy(x)) + weighted(beta, end_energy(x))


def ais(
    rng_key: Array,
    energy_path: EnergyPath,
    x: PyTree,
    betas: Any,
    make_kernel: Callable[..., Kernel],
    *,
    num_steps: int = 1,
    kernel_params: Any = None,
    first_chain: Any = None,
    return_info: bool = False,
) -> AISResult | tuple[AISResult, Info]:
    """Estimate `log Z(betas[-1]) - log Z(betas[0])` by annealed importance sampling.

    `betas` may run either way. From exact draws of an easy law upwards is forward AIS; on average
    its log_z lies below the truth. From exact or long-run draws of the hard law downwards is
    reverse AIS: its log_z estimates the difference with the opposite sign, so `-log_z` of the
    reverse run is the estimate that lies above the truth, and the two bracket it:
    `forward.log_z <= truth <= -reverse.log_z`, each up to its standard error.

    One loop over the temperatures; a temperature costs one gradient to enter it and those of
    `num_steps` steps, and the weights cost no energy beyond these. The log weights are summed with
    compensation, in the float type of the energies, so that 10,000 small increments to a sum of
    thousands of nats lose nothing but the rounding of the energies themselves. Step j at
    temperature k uses the key `fold_in(rng_key, (k - 1) num_steps + j)` and chain i the draws of
    its index: the result does not depend on the number of devices. Called outside a transformation
    it compiles once for each (energy_path, make_kernel, number of temperatures, shape).

    Over several devices, run it on each one's chains with `first_chain`, and pass all the log
    weights to `summarize_weights`. A path may be walked in stretches: log weights add up.

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
        first_chain: index of the first chain (default 0), as in `run_chain`.
        return_info: also return the kernel's Info of each temperature, [temperatures - 1, chains].

    Returns:
        An AISResult, or (AISResult, Info) with `return_info`. A chain that meets a NaN energy has a
        NaN log weight and makes log_z NaN; one that meets an infinite energy has weight 0.

    Raises ValueError for fewer than two betas, betas that are not finite or not one-dimensional,
    and `kernel_params` of another length.
    """
    betas = _check_betas(betas, x)
    for leaf in jax.tree.leaves(kernel_params):
        if jnp.shape(leaf)[:1] != (betas.size - 1,):
            raise ValueError(
                f"kernel_params have shape {jnp.shape(leaf)}: give [{betas.size - 1}, ...], an "
                "entry for each of betas[1:]"
            )
    if first_chain is not None:
        first_chain = jnp.asarray(first_chain, jnp.int32)
    log_weights, x, info = compiled(
        _walk,
        (rng_key, energy_path, x, betas, make_kernel, kernel_params, first_chain),
        num_steps=num_steps,
        return_info=return_info,
    )
    result = AISResult(*summarize_weights(log_weights), log_weights, x)
    return (result, info) if return_info else result


def _check_betas(betas, x):
    check_positions(x)
    if not isinstance(betas, jax.core.Tracer) and not np.isfinite(np.asarray(betas)).all():
        raise ValueError("betas hold a number that is not finite: give finite ones")
    betas = jnp.asarray(betas, jax.tree.leaves(x)[0].dtype)
    if betas.ndim != 1 or betas.size < 2:
        raise ValueError(
            f"betas have shape {betas.shape}: give [temperatures], at least two, such as "
            "jnp.linspace(0, 1, 101)"
        )
    return betas


def _walk(
    rng_key, energy_path, x, betas, make_kernel, params, first_chain, *, num_steps, return_info
):
    def temperature(carry, at):
        x, energy, log_weights, lost = carry
        k, beta, params = at
        kernel = make_kernel(lambda x: energy_path(x, beta), *(() if params is None else (params,)))
        state = start(kernel, x, first_chain)
        log_weights, lost = _add(log_weights, lost, energy - state.energy)
        state, info = run_chain(rng_key, kernel, state, num_steps, first_step=k * num_steps)
        return (state.x, state.energy, log_weights, lost), info if return_info else None

    x = jax.tree.map(jnp.asarray, x)
    energy = energy_path(x, betas[0])
    check_energy(energy, x)
    zeros = jnp.zeros_like(energy)
    numbers = jnp.arange(betas.size - 1, dtype=jnp.int32)
    (x, _, log_weights, lost), info = jax.lax.scan(
        temperature, (x, energy, zeros, zeros), (numbers, betas[1:], params)
    )
    return log_weights + jnp.where(jnp.isfinite(lost), lost, 0.0), x, info


def _add(total, lost, term):
    """Neumaier's sum: the new total, and all that rounding has taken from it so far.

    A total of minus infinity (a chain of weight 0) stays there, whatever it meets later.
    """
    new = jnp.where(jnp.isneginf(total), total, total + term)
    lost += jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, lost


def summarize_weights(log_weights: Array) -> WeightSummary:
    """log of the mean weight, its standard error, and the effective number of chains.

    `standard_error = sd(w) / (sqrt(chains) mean(w))`, the delta method on `log mean w`, in nats:
    NaN for one chain, and too small where few of the chains carry the weight (ess near 1).

    Args:
        log_weights: [chains], of any size: only differences are exponentiated.
    """
    if jnp.ndim(log_weights) != 1 or jnp.size(log_weights) == 0:
        raise ValueError(f"log_weights have shape {jnp.shape(log_weights)}: give [chains]")
    num_chains = log_weights.shape[0]
    highest = jnp.max(log_weights)
    weights = jnp.exp(log_weights - highest)
    mean = jnp.mean(weights)
    return WeightSummary(
        log_z=highest + jnp.log(mean),
        standard_error=jnp.std(weights, ddof=1) / (np.sqrt(num_chains) * mean),
        ess=jnp.sum(weights) ** 2 / jnp.sum(weights**2),
    )


def bootstrap_standard_error(
    rng_key: Array, log_weights: Array, *, num_resamples: int = 1_000
) -> Array:
    """Standard error of `log mean w` by the bootstrap over chains, in nats, [].

    The standard deviation of `log mean w` over `num_resamples` sets of chains drawn with
    replacement. Beside `AISResult.standard_error` it needs no delta method; the two differ where
    few chains carry the weight, and then neither is to be trusted.

    Args:
        rng_key: one key.
        log_weights: [chains].
        num_resamples: number of resampled sets.
    """
    num_chains = log_weights.shape[0]
    chain = jnp.arange(num_chains, dtype=jnp.int32)

    def resampled(n):
        place = random.uniform(random.fold_in(rng_key, n), chain, log_weights) * num_chains
        chosen = jnp.minimum(place.astype(jnp.int32), num_chains - 1)
        return jax.nn.logsumexp(log_weights[chosen])

    return jnp.std(jax.lax.map(resampled, jnp.arange(num_resamples), batch_size=100))
