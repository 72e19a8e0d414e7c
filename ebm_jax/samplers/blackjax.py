"""BlackJAX algorithms as kernels of this library, and its kernels as BlackJAX algorithms.

BlackJAX moves one chain per call and takes log densities; a Kernel moves [chains, ...] and takes
energies. BlackJAX itself is imported only where it is needed, by `to_blackjax`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._numbering import chain_indices
from ebm_jax.samplers._trees import (
    PyTree,
    check_positions,
    distance,
    norm,
    sum_over_dims,
    wide_dtype,
)
from ebm_jax.samplers.base import Info, Kernel


class BlackjaxKernelState(NamedTuple):
    """State of a kernel made by `from_blackjax`.

    Attributes:
        x: positions, [chains, ...] or a pytree of such.
        energy: minus the log density of `x`, [chains]; NaN if the algorithm's state has none.
        grad: gradient of the energy at `x`; None if the algorithm's state has none.
        chain: global index of each chain, int32 [chains].
        algorithm: the algorithm's own states, stacked along [chains].
    """

    x: PyTree
    energy: Array
    grad: PyTree
    chain: Array
    algorithm: Any


def from_blackjax(algorithm: Any, *, init_key: Array | None = None) -> Kernel:
    """A BlackJAX algorithm, such as `blackjax.nuts(logdensity_fn, ...)`, as a Kernel.

    `logdensity_fn` maps one position (no chain axis) to a scalar, as BlackJAX has it; the kernel
    moves many chains at once, each with the key `fold_in(step_key, chain index)`, so that what
    chain i does depends neither on the number of chains nor on devices. NUTS's trajectories are as
    long as the longest among the chains that share a device.

    Info: `acceptance` is the algorithm's `acceptance_rate` (or `is_accepted`; NaN if it has
    neither), `energy` and `grad_norm` those of the point that the step started from, as they are
    known (else NaN); the algorithm's own info is not kept.

    Args:
        algorithm: an object with `init(position, rng_key)` and `step(rng_key, state)`, whose
            states have `position` and, most of them, `logdensity` and `logdensity_grad`.
        init_key: one key for algorithms that draw something at their start, such as the momentum of
            `blackjax.mclmc`.

    Returns:
        A Kernel whose states are BlackjaxKernelState.

    Raises TypeError for an object without `init` and `step`, and for states without `position`.
    """
    for name in ("init", "step"):
        if not callable(getattr(algorithm, name, None)):
            raise TypeError(
                "expected an algorithm with init and step, such as blackjax.nuts(logdensity_fn, "
                f"step_size, inverse_mass_matrix), got {type(algorithm).__name__} without {name}"
            )
    return Kernel(Partial(_init, algorithm.init, init_key), Partial(_step, algorithm.step))


def _init(algorithm_init: Any, init_key: Array | None, x: PyTree) -> BlackjaxKernelState:
    chain = chain_indices(x, check_positions(x))
    if init_key is None:
        states = jax.vmap(lambda position: algorithm_init(position, None))(x)
    else:
        states = jax.vmap(algorithm_init)(x, _keys(init_key, chain))
    return _wrap(states, chain)


def _step(
    algorithm_step: Any, rng_key: Array, state: BlackjaxKernelState
) -> tuple[BlackjaxKernelState, Info]:
    states, info = jax.vmap(algorithm_step)(_keys(rng_key, state.chain), state.algorithm)
    new = _wrap(states, state.chain)
    unknown = jnp.full_like(state.energy, jnp.nan, dtype=wide_dtype(state.energy.dtype))
    finite = jnp.isfinite(sum_over_dims(new.x))
    if hasattr(states, "logdensity"):
        finite &= jnp.isfinite(new.energy)
    acceptance = getattr(info, "acceptance_rate", getattr(info, "is_accepted", unknown))
    return new, Info(
        acceptance=acceptance.astype(unknown.dtype),
        energy=state.energy,
        grad_norm=unknown if state.grad is None else norm(state.grad),
        displacement=distance(new.x, state.x),
        is_finite=finite,
    )


def _keys(rng_key: Array, chain: Array) -> Array:
    def key_of(index: Array) -> Array:
        return random.fold_in(rng_key, index)

    return jax.vmap(key_of)(chain)


def _wrap(states: Any, chain: Array) -> BlackjaxKernelState:
    if not hasattr(states, "position"):
        raise TypeError(f"expected states with a position, got {type(states).__name__}")
    x = states.position
    dtype = jax.tree.leaves(x)[0].dtype
    density = getattr(states, "logdensity", jnp.full(chain.shape, jnp.nan, dtype))
    slope = getattr(states, "logdensity_grad", None)
    return BlackjaxKernelState(x, -density, jax.tree.map(jnp.negative, slope), chain, states)


class SingleChainState(NamedTuple):
    """State of an algorithm made by `to_blackjax`, with the names that BlackJAX uses.

    Attributes:
        position: one position, no chain axis.
        logdensity: minus its energy, [].
        logdensity_grad: minus the energy's gradient, shaped as `position`; None if there is none.
        kernel_state: the kernel's state, with a chain axis of 1.
    """

    position: PyTree
    logdensity: Array
    logdensity_grad: PyTree
    kernel_state: Any


class SingleChainInfo(NamedTuple):
    """Information on one step of an algorithm made by `to_blackjax`.

    Attributes:
        acceptance_rate: probability with which the move was accepted, [].
        kernel_info: the kernel's whole Info, with a chain axis of 1.
    """

    acceptance_rate: Array
    kernel_info: Any


def to_blackjax(kernel: Kernel) -> Any:
    """A Kernel of this library as a `blackjax.SamplingAlgorithm` for one chain.

    `init(position, rng_key=None)` and `step(rng_key, state)` take a position without a chain axis;
    map them over keys and positions with `jax.vmap` for several chains, as is usual in BlackJAX.
    All the randomness is in the key: every such chain has index 0.

    It fits BlackJAX's runners, such as `blackjax.util.run_inference_algorithm`. BlackJAX's
    adaptation (`window_adaptation`) builds an algorithm itself, from a log density and the
    parameters that it adapts, so it does not take one that is ready: use `warmup`.

    Returns:
        A `blackjax.base.SamplingAlgorithm` with SingleChainState and SingleChainInfo.

    Raises ImportError where BlackJAX is not installed.
    """
    try:
        from blackjax.base import SamplingAlgorithm
    except ImportError:
        raise ImportError(
            "expected BlackJAX to be installed for to_blackjax: pip install 'ebm_jax[blackjax]'"
        ) from None

    def init(position: PyTree, rng_key: Array | None = None) -> SingleChainState:
        del rng_key  # a kernel's start is a function of the position
        state = kernel.init(jax.tree.map(lambda a: jnp.asarray(a)[None], position))
        return _single(state._replace(chain=jnp.zeros(1, jnp.int32)))

    def step(rng_key: Array, state: SingleChainState) -> tuple[SingleChainState, SingleChainInfo]:
        new, info = kernel.step(rng_key, state.kernel_state)
        return _single(new), SingleChainInfo(info.acceptance[0], info)

    make: Any = SamplingAlgorithm  # whose annotations know BlackJAX's own states alone
    return make(init, step)


def _single(state: Any) -> SingleChainState:
    logdensity, slope = jax.tree.map(lambda a: -a[0], (state.energy, state.grad))
    return SingleChainState(jax.tree.map(lambda a: a[0], state.x), logdensity, slope, state)
