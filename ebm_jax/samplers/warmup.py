"""Finding a step size and a mass before sampling; the result is numbers for a new kernel."""

import math
import warnings
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers import random
from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._numbering import device_axes
from ebm_jax.samplers._trees import (
    PyTree,
    check_count,
    check_positions,
    distance,
    is_traced,
    parameter,
    rows,
    sum_over_dims,
    transpose,
    wide_dtype,
)
from ebm_jax.samplers.base import Kernel, positions
from ebm_jax.samplers.roughness import MOST_ROUGHNESS, jumps_near
from ebm_jax.samplers.run import as_index, filled, is_state, start

# A chain that has gone less than this part of the distance between two independent draws in the
# last fifth of the warm-up does not move.
_LEAST_MOVEMENT = 0.05


class MakeTunedKernel(Protocol):
    """A kernel as a function of what a warm-up adapts."""

    def __call__(self, step_size: jax.Array, mass: PyTree, /) -> Kernel:
        """A kernel with `step_size`, [] or [chains], and `mass`, [1, ...] or [chains, ...]."""
        ...


class WarmupResult(NamedTuple):
    """Outcome of a warm-up.

    Attributes:
        state: the chains at its end, to continue from.
        step_size: scalar, or [chains] with `per_chain`.
        mass: 1 / variance per dimension, shaped [1, ...] against x [chains, ...] (a pytree of such
            for pytree positions), or [chains, ...] with `per_chain`; ones where not adapted.
        acceptance: mean over the last tenth, scalar or [chains].
        movement: distance between the two ends of the last fifth of the warm-up, as a part of the
            distance between independent draws, `sqrt(2 sum of variances over chains)`; scalar (root
            mean square) or [chains]. Near 1 for chains that mix in that time; NaN for one chain.
        roughness: as `Roughness.nats` at the end of the warm-up, scalar; NaN without a gradient.
        is_stuck: whether chains do not move although they may be accepted, bool, scalar or
            [chains]: `movement` is below 0.05, or the energy jumps by more than 0.3 nats between
            neighboring floats and the step size has fallen tenfold, or no chain is finite.
    """

    state: Any
    step_size: jax.Array
    mass: PyTree
    acceptance: jax.Array
    movement: jax.Array
    roughness: jax.Array
    is_stuck: jax.Array


class _StepSearch(NamedTuple):
    log_step: jax.Array  # used for the next step
    log_average: jax.Array  # the result so far: its weighted average, or itself while it settles
    error: jax.Array  # running mean of target minus acceptance
    num_steps: jax.Array  # since the last restart
    center: jax.Array  # log step that the iterates are drawn to


class _Moments(NamedTuple):
    weight: jax.Array  # positions added, [] or [chains] with per_chain
    mean: PyTree
    sum_of_squares: PyTree  # of deviations from the mean


class _Phases(NamedTuple):
    """Schedule of a warm-up, bool [steps] but for the steps' numbers."""

    step: Any
    in_window: np.ndarray  # adds to the moments
    window_ends: np.ndarray  # a new mass, and the step size starts again
    last_fifth: np.ndarray  # begins with it
    search_ends: np.ndarray  # after it, the step size settles
    settles: np.ndarray  # on its target
    last_tenth: np.ndarray  # whose acceptance is reported


def warmup(
    rng_key: jax.Array,
    make_kernel: MakeTunedKernel,
    x: PyTree,
    num_steps: int,
    *,
    initial_step_size: Any = 0.1,
    target_acceptance: float = 0.8,
    adapt_mass: bool = True,
    per_chain: bool = False,
    first_chain: Any = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> WarmupResult:
    """Adapt step size and diagonal mass while the chains move.

    Step size by dual averaging of the acceptance (Nesterov 2009; Hoffman and Gelman 2014, eq. 6,
    with their gamma = 0.05, t0 = 10, kappa = 0.75), fed with the mean over all chains, or with each
    chain's own. Its average of log step sizes accepts more than the target wherever the iterates
    still fluctuate, because acceptance is a concave function of them; so the last two fifteenths of
    the steps follow `log step += 5 / (n + 5) (acceptance - target)` (Robbins and Monro 1951), whose
    fluctuation dies out, and end on the target.

    Mass from the variance of the positions in windows that double in length, between a first and a
    last segment that adapt the step size alone, as in Stan; the step size starts again with each
    new mass. By default the variance is pooled over chains *and* steps, so chains must have reached
    the typical set within the first tenth of the run. Chains that are not finite are left out.

    Called outside a transformation, it warns (UserWarning) where `WarmupResult.is_stuck`.

    Example:
        found = warmup(key, lambda e, m: hmc(energy_fn, e, 10, mass=m), x, 1_000)
        kernel = hmc(energy_fn, found.step_size, 10, mass=found.mass)
        state, info = run_chain(key2, kernel, found.state, 10_000)
    For MALA, which has no mass: `lambda h, m: mala(energy_fn, h / m)` with one array as positions
    and the result `mala(energy_fn, found.step_size / found.mass)`.

    Args:
        rng_key: one key.
        make_kernel: `make_kernel(step_size, mass) -> Kernel`; called with traced numbers.
        x: start, [chains, ...] or a pytree of such, or a state.
        num_steps: steps to make, at least 20; hundreds are usual.
        initial_step_size: where the search begins.
        target_acceptance: in (0, 1): 0.57 suits MALA, 0.65 to 0.8 HMC.
        adapt_mass: whether to adapt the mass; else it stays 1.
        per_chain: a step size and a mass of its own for each chain.
        first_chain: index of the first chain, as in `run_chain`.
        axis_name: mapped axes over which to pool. None pools over those axes of `pmap` and
            `shard_map` that split `x`, so that all devices get one step size and one mass; `()`
            gives each device its own. Nothing is pooled with `per_chain`.

    Raises ValueError for a `num_steps` below 20 and numbers out of range.
    """
    check_count(num_steps, "num_steps")
    if num_steps < 20:
        raise ValueError(f"expected num_steps of at least 20, better 300 or more, got {num_steps}")
    initial: jax.Array = parameter(initial_step_size, "initial_step_size")
    target: jax.Array = parameter(target_acceptance, "target_acceptance", below=1.0)
    if isinstance(axis_name, str):
        axis_name = (axis_name,)
    result: WarmupResult = compiled(
        _warmup,
        (rng_key, make_kernel, x, initial, target, as_index(first_chain)),
        num_steps=int(num_steps),
        adapt_mass=bool(adapt_mass),
        per_chain=bool(per_chain),
        axis_name=axis_name,
    )
    _warn_if_stuck(result, initial)
    return result


def _warn_if_stuck(result: WarmupResult, initial: Any) -> None:
    """Warn of chains that stand still, where the numbers can be read."""
    numbers = (result.is_stuck, result.step_size, result.acceptance, result.movement, initial)
    for number in (*numbers, result.roughness):
        value: Any = number
        if is_traced(value) or not value.is_fully_addressable:
            return
    is_stuck = np.asarray(result.is_stuck)
    if not is_stuck.any():
        return
    step, acceptance, movement, begin = (np.ravel(np.asarray(v, float)) for v in numbers[1:])
    worst = int(np.argmax(is_stuck))
    warnings.warn(
        f"expected warm-up to leave chains that move, got {movement[worst]:.2g} of their spread in "
        f"its last fifth, at acceptance {acceptance[worst]:.2f} and a step size of "
        f"{step[worst]:.2g} after {begin.flat[0]:.2g}; the energy jumps by "
        f"{float(result.roughness):.2g} nats between neighboring floats (see samplers.roughness)",
        stacklevel=3,
    )


def mass_windows(num_steps: int) -> list[tuple[int, int]]:
    """Steps [from, to) over which each new mass is estimated.

    The first tenth and the last fifth are left out; windows between them double in length, and one
    that would leave less than the next one's length takes what is left.
    """
    begin, end = num_steps // 10, num_steps - num_steps // 5
    length, windows = (end - begin) // 15 or 1, list[tuple[int, int]]()
    while begin < end:
        stop = end if begin + 3 * length > end else begin + length
        windows.append((begin, stop))
        begin, length = stop, 2 * length
    return windows


def _phases(num_steps: int, adapt_mass: bool) -> _Phases:
    windows = mass_windows(num_steps) if adapt_mass else []
    in_window, window_ends = np.zeros(num_steps, bool), np.zeros(num_steps, bool)
    for begin, end in windows:
        in_window[begin:end], window_ends[end - 1] = True, True
    step = np.arange(num_steps)
    settling = num_steps - 2 * (num_steps // 5) // 3
    return _Phases(
        step,
        in_window,
        window_ends,
        last_fifth=step == num_steps - num_steps // 5,
        search_ends=step == settling - 1,
        settles=step >= settling,
        last_tenth=step >= num_steps - num_steps // 10,
    )


def _warmup(
    rng_key: jax.Array,
    make_kernel: MakeTunedKernel,
    x: PyTree,
    initial: jax.Array,
    target: jax.Array,
    first_chain: jax.Array | None,
    *,
    num_steps: int,
    adapt_mass: bool,
    per_chain: bool,
    axis_name: tuple[str, ...] | None,
) -> WarmupResult:
    phases = _phases(num_steps, adapt_mass)
    opening = x.x if is_state(x) else x
    num_chains = check_positions(opening)
    axes = device_axes(opening) if axis_name is None else axis_name
    pooling = _Pooling(() if per_chain else axes, per_chain)
    dtype = wide_dtype(jax.tree.leaves(opening)[0].dtype)
    initial, target = jnp.asarray(initial, dtype), jnp.asarray(target, dtype)

    def kernel_at(search: _StepSearch, mass: PyTree) -> Kernel:
        return make_kernel(jnp.exp(search.log_step), mass)

    shape = (num_chains,) if per_chain else ()
    search = _restarted(jnp.broadcast_to(initial, shape))
    mass = jax.tree.map(
        lambda a: jnp.ones((num_chains if per_chain else 1, *a.shape[1:]), dtype), opening
    )
    nothing = jax.tree.map(jnp.zeros_like, mass)
    moments = _Moments(jnp.zeros(shape, dtype), nothing, nothing)
    if not pooling.axes:  # what is adapted to this device's chains differs between devices
        search, mass, moments = jax.tree.map(
            lambda a: filled(a, lambda a: a, opening), (search, mass, moments)
        )
    state = start(rng_key, kernel_at(search, mass), x, first_chain)

    def body(carry: Any, phase: _Phases) -> tuple[Any, jax.Array]:
        state, search, mass, moments, mark = carry
        mark = _where(phase.last_fifth, positions(state), mark)
        is_alive = _is_alive(state)
        state, info = kernel_at(search, mass).step(random.fold_in(rng_key, phase.step), state)
        acceptance = pooling.mean(jnp.nan_to_num(info.acceptance.astype(dtype)), is_alive)
        error = jnp.where(jnp.isnan(acceptance), 0, target - acceptance)
        search = _where(phase.settles, _settled(search, error), _averaged(search, error))
        search = _where(phase.search_ends, _restarted(jnp.exp(search.log_average)), search)
        if adapt_mass:
            added = pooling.add(moments, positions(state), is_alive & _is_alive(state))
            moments = _where(phase.in_window, added, moments)
            renewed = _mass(moments), _restarted(jnp.exp(search.log_average))
            mass, search = _where(phase.window_ends, renewed, (mass, search))
            moments = _where(phase.window_ends, jax.tree.map(jnp.zeros_like, moments), moments)
        return (state, search, mass, moments, mark), acceptance

    carry = state, search, mass, moments, positions(state)
    carry, accepted = jax.lax.scan(body, carry, phases)
    state, search, mass, _, mark = carry
    step_size = jnp.exp(search.log_average)
    across = _Pooling(axes, per_chain=False)
    movement = _movement(state, mark, across, per_chain)
    nats = _roughness(kernel_at(search, mass), state, across)
    return WarmupResult(
        state=state,
        step_size=step_size,
        mass=mass,
        acceptance=jnp.mean(accepted[phases.last_tenth], axis=0),
        movement=movement,
        roughness=nats,
        is_stuck=_is_stuck(movement, nats, step_size, initial, accepted[-1]),
    )


def _is_stuck(
    movement: jax.Array,
    nats: jax.Array,
    step_size: jax.Array,
    initial: jax.Array,
    accepted: jax.Array,
) -> jax.Array:
    """`WarmupResult.is_stuck`, of the first and the last step size and the last acceptance."""
    has_collapsed = (nats > MOST_ROUGHNESS) & (step_size < initial / 10)
    return (movement < _LEAST_MOVEMENT) | has_collapsed | jnp.isnan(accepted)


def _where(condition: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _is_alive(state: Any) -> jax.Array:
    """Whether positions, energy and gradient of each chain are finite, bool [chains]."""
    is_alive = jnp.isfinite(sum_over_dims(state.x))
    if state.grad is None:  # an algorithm without gradients may have no energies either
        return is_alive
    return is_alive & jnp.isfinite(state.energy) & jnp.isfinite(sum_over_dims(state.grad))


class _Pooling(NamedTuple):
    """Sums over all chains of all devices, or over none."""

    axes: tuple[str, ...]
    per_chain: bool

    def total(self, values: jax.Array) -> jax.Array:
        """Sum over the chains, keeping the axis where values have more than it."""
        if self.per_chain:
            return values
        total = jnp.sum(values, axis=0, keepdims=values.ndim > 1)
        return jax.lax.psum(total, self.axes) if self.axes else total

    def mean(self, values: jax.Array, is_alive: jax.Array) -> jax.Array:
        """Mean of values [chains] over the chains that are alive; NaN where there is none."""
        count = self.total(is_alive)
        return self.total(jnp.where(is_alive, values, 0)) / count

    def add(self, moments: _Moments, x: PyTree, is_alive: jax.Array) -> _Moments:
        """Moments with the positions of the chains that are alive added, in Chan's stable form."""
        batch = self.total(is_alive)
        count = moments.weight + batch

        def one(mean: jax.Array, squares: jax.Array, x: jax.Array) -> Any:
            def per_row(values: jax.Array) -> jax.Array:
                return rows(values, x) if self.per_chain else values

            known, added, all_ = (per_row(v) for v in (moments.weight, batch, count))
            mask = rows(is_alive, x)
            x_mean = self.total(jnp.where(mask, x, 0)) / jnp.maximum(added, 1)
            deviation = jnp.where(mask, x - x_mean, 0)
            shift = x_mean - mean
            part = added / jnp.maximum(all_, 1)
            between = jnp.square(shift) * known * part
            within = self.total(jnp.square(deviation))
            return mean + shift * part, squares + within + between

        pairs = jax.tree.map(one, moments.mean, moments.sum_of_squares, x)
        return _Moments(count, *transpose(pairs, x, 2))


def _restarted(step_size: jax.Array) -> _StepSearch:
    log_step = jnp.log(step_size)
    zero = jnp.zeros_like(log_step)
    return _StepSearch(log_step, log_step, zero, zero, math.log(10.0) + log_step)


def _averaged(search: _StepSearch, error: jax.Array) -> _StepSearch:
    """One update of Hoffman and Gelman (2014), eq. 6."""
    count = search.num_steps + 1
    rate = 1 / (count + 10)
    mean_error = (1 - rate) * search.error + rate * error
    log_step = search.center - jnp.sqrt(count) / 0.05 * mean_error
    weight = count**-0.75
    log_average = weight * log_step + (1 - weight) * search.log_average
    return _StepSearch(log_step, log_average, mean_error, count, search.center)


def _settled(search: _StepSearch, error: jax.Array) -> _StepSearch:
    """One update of Robbins and Monro (1951), whose gain falls as 1 / n."""
    # Acceptance falls by about 0.4 per unit of log step near 0.8, so that a gain of 1 / 0.4 n would
    # leave the least noise; twice that forgets the start of the phase faster.
    log_step = search.log_step - 5 / (search.num_steps + 5) * error
    return search._replace(log_step=log_step, log_average=log_step, num_steps=search.num_steps + 1)


def _movement(state: Any, mark: PyTree, across: _Pooling, per_chain: bool) -> jax.Array:
    """`WarmupResult.movement` of chains that were at `mark`."""
    x, is_alive = positions(state), _is_alive(state)
    moved = distance(x, mark)

    def squares(leaf: jax.Array) -> jax.Array:
        mask = rows(is_alive, leaf)
        mean = across.total(jnp.where(mask, leaf, 0)) / across.total(rows(is_alive, leaf))
        return jnp.where(mask, jnp.square(leaf - mean), 0)

    count = across.total(is_alive)
    variance = across.total(sum_over_dims(jax.tree.map(squares, x))) / (count - 1)
    spread = jnp.sqrt(2 * jnp.where(count > 1, variance, jnp.nan))
    if per_chain:
        return moved / spread
    return jnp.sqrt(across.mean(jnp.square(moved), is_alive)) / spread


def _roughness(kernel: Kernel, state: Any, across: _Pooling) -> jax.Array:
    """`WarmupResult.roughness`, of the energy that the kernel starts from."""
    if state.grad is None:
        return jnp.full((), jnp.nan, wide_dtype(state.energy.dtype))

    def energy_and_grad(x: PyTree) -> tuple[jax.Array, PyTree]:
        near = kernel.init(x)
        return near.energy, near.grad

    jumps, _ = jumps_near(energy_and_grad, state.x, state.energy, state.grad)
    is_alive = _is_alive(state)
    return jnp.sqrt(jnp.stack([across.mean(jnp.square(jump), is_alive) for jump in jumps]).max())


def _mass(moments: _Moments) -> PyTree:
    """1 / variance, drawn a little towards 1000 where there are few draws, as in Stan."""

    def one(squares: jax.Array) -> jax.Array:
        n = moments.weight if moments.weight.ndim == 0 else rows(moments.weight, squares)
        variance = squares / jnp.maximum(n - 1, 1)
        return (n + 5) / (n * variance + 5e-3)

    return jax.tree.map(one, moments.sum_of_squares)
