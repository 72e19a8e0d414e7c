"""Finding a step size and a mass before sampling; the result is numbers for a new kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers import random
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.chains import check_count, compiled, start
from ebm_jax.samplers.positions import PyTree, check_positions, parameter


class WarmupResult(NamedTuple):
    """What a warm-up found.

    Attributes:
        state: where the chains stand, to continue from.
        step_size: scalar, or [chains] with `per_chain`.
        mass: 1 / variance per dimension, shaped [1, ...] against x [chains, ...] (a pytree of such
            for pytree positions), or [chains, ...] with `per_chain`; ones where not adapted.
        acceptance: mean over the last window, scalar or [chains].
    """

    state: Any
    step_size: jax.Array
    mass: PyTree
    acceptance: jax.Array


class _DualAveraging(NamedTuple):
    log_step: jax.Array  # used for the next step
    log_average: jax.Array  # its weighted average: the result
    error: jax.Array  # running mean of target minus acceptance
    count: jax.Array  # steps since the last restart
    centre: jax.Array  # log step that the iterates are drawn to


class _Moments(NamedTuple):
    count: jax.Array
    mean: PyTree
    sum_of_squares: PyTree  # of deviations from the mean


def warmup(
    rng_key: jax.Array,
    make_kernel: Callable[[jax.Array, PyTree], Kernel],
    x: PyTree,
    num_steps: int,
    *,
    initial_step_size: Any = 0.1,
    target_acceptance: float = 0.8,
    adapt_mass: bool = True,
    per_chain: bool = False,
    first_chain: Any = None,
) -> WarmupResult:
    """Adapt step size and diagonal mass while the chains move.

    Step size by dual averaging of the acceptance (Nesterov 2009; Hoffman and Gelman 2014, eq. 6,
    with their gamma = 0.05, t0 = 10, kappa = 0.75), fed with the mean over all chains, or with each
    chain's own. Mass from the variance of the positions in windows that double in length, between
    a first and a last stretch that adapt the step size alone, as in Stan; the step size starts
    again with each new mass. By default the variance is pooled over chains *and* steps, so chains
    must have reached the typical set within the first tenth of the run.

    Example:
        found = warmup(key, lambda e, m: hmc(energy_fn, e, 10, mass=m), x, 1_000)
        kernel = hmc(energy_fn, found.step_size, 10, mass=found.mass)
        state, info = run_chain(key2, kernel, found.state, 10_000)
    For MALA, which has no mass: `lambda h, m: mala(energy_fn, h / m)` with one array as positions
    and the result `mala(energy_fn, found.step_size / found.mass)`.

    Args:
        rng_key: one key; step n uses `fold_in(rng_key, n)`, so sample with another key.
        make_kernel: `(step_size, mass) -> Kernel`, both traced; the kernel's Info must report
            acceptances. With `per_chain`, `step_size` comes as [chains] and `mass` as [chains, ...]
            (mala then wants `h.reshape(-1, 1) / m` for vectors).
        x: positions [chains, ...] or a pytree of such, or a state.
        num_steps: number of steps, a Python int >= 20.
        initial_step_size: > 0, scalar or, with `per_chain`, also [chains].
        target_acceptance: in (0, 1): 0.57 suits MALA, 0.65 to 0.8 HMC.
        adapt_mass: whether to adapt the mass; else it stays 1.
        per_chain: a step size and a mass of its own for each chain.
        first_chain: index of the first chain, as in `run_chain`.

    Raises ValueError for a `num_steps` below 20 and numbers out of range.
    """
    check_count(num_steps, "num_steps")
    if num_steps < 20:
        raise ValueError(f"num_steps is {num_steps}: give at least 20, better 300 or more")
    target_acceptance = parameter(target_acceptance, "target_acceptance")
    if not isinstance(target_acceptance, jax.core.Tracer) and np.any(target_acceptance >= 1):
        raise ValueError(f"target_acceptance is {target_acceptance}: give a number below 1")
    if first_chain is not None:
        first_chain = jnp.asarray(first_chain, jnp.int32)
    return compiled(
        _warmup,
        (
            rng_key,
            make_kernel,
            x,
            parameter(initial_step_size, "initial_step_size"),
            target_acceptance,
            first_chain,
        ),
        num_steps=int(num_steps),
        adapt_mass=bool(adapt_mass),
        per_chain=bool(per_chain),
    )


def mass_windows(num_steps: int) -> list[tuple[int, int]]:
    """Steps [from, to) over which each new mass is estimated.

    The first tenth and the last fifth are left out; windows between them double in length, and one
    that would leave less than the next one's length takes what is left.
    """
    begin, end = num_steps // 10, num_steps - num_steps // 5
    length, windows = max(end - begin, 1) // 15 or 1, []
    while begin < end:
        stop = end if begin + 3 * length > end else begin + length
        windows.append((begin, stop))
        begin, length = stop, 2 * length
    return windows


def _warmup(
    rng_key, make_kernel, x, step_size, target, first_chain, *, num_steps, adapt_mass, per_chain
):
    windows = mass_windows(num_steps) if adapt_mass else []
    in_window, window_ends = np.zeros(num_steps, bool), np.zeros(num_steps, bool)
    for begin, end in windows:
        in_window[begin:end], window_ends[end - 1] = True, True
    last_window = windows[-1][1] if windows else num_steps // 2

    def kernel_at(averaging, mass):
        return make_kernel(jnp.exp(averaging.log_step), mass)

    positions = getattr(x, "x", x)
    num_chains = check_positions(positions)
    rows = num_chains if per_chain else 1
    mass = jax.tree.map(lambda a: jnp.ones((rows, *a.shape[1:]), a.dtype), positions)
    dtype = jax.tree.leaves(positions)[0].dtype
    step_size = jnp.asarray(step_size, dtype)
    averaging = _restart(jnp.broadcast_to(step_size, (num_chains,) if per_chain else ()))
    state = start(kernel_at(averaging, mass), x, first_chain)

    def body(carry, flags):
        state, averaging, mass, moments, n = carry
        in_window, window_end, counts = flags
        state, info = kernel_at(averaging, mass).step(random.fold_in(rng_key, n), state)
        acceptance = info.acceptance if per_chain else jnp.mean(info.acceptance)
        averaging = _average(averaging, target, acceptance)
        if adapt_mass:
            added = _add(moments, state.x, per_chain)
            moments = jax.tree.map(lambda a, b: jnp.where(in_window, a, b), added, moments)
            renewed = (_mass(moments), _restart(jnp.exp(averaging.log_average)))
            mass, averaging = jax.tree.map(
                lambda a, b: jnp.where(window_end, a, b), renewed, (mass, averaging)
            )
            moments = jax.tree.map(lambda a: jnp.where(window_end, 0, a), moments)
        return (state, averaging, mass, moments, n + 1), jnp.where(counts, acceptance, 0)

    moments = _Moments(
        jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, mass), jax.tree.map(jnp.zeros_like, mass)
    )
    counts = np.arange(num_steps) >= last_window
    carry = state, averaging, mass, moments, jnp.int32(0)
    carry, accepted = jax.lax.scan(body, carry, (in_window, window_ends, counts))
    state, averaging, mass, _, _ = carry
    acceptance = jnp.sum(accepted, axis=0) / counts.sum()
    return WarmupResult(state, jnp.exp(averaging.log_average), mass, acceptance)


def _restart(step_size):
    log_step = jnp.log(step_size)
    zero = jnp.zeros_like(log_step)
    return _DualAveraging(log_step, log_step, zero, zero, np.log(10.0) + log_step)


def _average(state, target, acceptance):
    """One update of Hoffman and Gelman (2014), eq. 6."""
    count = state.count + 1
    rate = 1 / (count + 10)
    error = (1 - rate) * state.error + rate * (target - acceptance)
    log_step = state.centre - jnp.sqrt(count) / 0.05 * error
    weight = count**-0.75
    log_average = weight * log_step + (1 - weight) * state.log_average
    return _DualAveraging(log_step, log_average, error, count, state.centre)


def _add(moments, x, per_chain):
    """Moments with the positions of all chains added, in Chan's stable form."""
    batch = 1 if per_chain else jax.tree.leaves(x)[0].shape[0]
    count = moments.count + batch

    def one(mean, squares, x):
        x_mean = x if per_chain else jnp.mean(x, axis=0, keepdims=True)
        within = 0.0 if per_chain else jnp.sum(jnp.square(x - x_mean), axis=0, keepdims=True)
        shift = x_mean - mean
        between = jnp.square(shift) * (moments.count * batch / count)
        return mean + shift * (batch / count), squares + within + between

    pairs = jax.tree.map(one, moments.mean, moments.sum_of_squares, x)
    return _Moments(
        count, *jax.tree.transpose(jax.tree.structure(x), jax.tree.structure((0, 0)), pairs)
    )


def _mass(moments):
    """1 / variance, drawn a little towards 1000 where there are few draws, as in Stan."""
    n = moments.count

    def one(squares):
        variance = squares / jnp.maximum(n - 1, 1)
        return (n + 5) / (n * variance + 5e-3)

    return jax.tree.map(one, moments.sum_of_squares)
