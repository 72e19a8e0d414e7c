"""What a sampler is: a kernel of two pure functions, its state, and what it reports."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.samplers.positions import PyTree, check_positions, sum_over_dims

EnergyFn = Callable[[PyTree], jax.Array]


class State(NamedTuple):
    """Where the chains are. Other kernels' states begin with these same fields.

    Attributes:
        x: positions, [chains, ...] or a pytree of such.
        energy: energy of `x`, [chains].
        grad: gradient of the energy at `x`, shaped as `x`.
        chain: global index of each chain, int32 [chains]. It picks the chain's random numbers and
            travels with it when a state is sliced or spread over devices.
    """

    x: PyTree
    energy: jax.Array
    grad: PyTree
    chain: jax.Array


class Info(NamedTuple):
    """What one step, or a block of steps, did; every array is [chains] (runs: [..., chains]).

    Attributes:
        acceptance: probability with which the move was accepted, in [0, 1]; 1 where nothing is
            tested. A block holds the mean over its steps.
        energy: energy of the point that the step started from (the point whose gradient made the
            move; `State.energy` has that of the new point). A block holds its last step's.
        grad_norm: Euclidean norm of the gradient at that same point. A block: its last step's.
        displacement: Euclidean distance between the positions at the two ends of the step, or of
            the block.
        is_finite: whether the energies and gradients behind the move are finite: those of the start
            and, where there is a test, of the proposal. A block: whether this held at each step.
        kept: what the runner kept, [blocks, ...], else None.
    """

    acceptance: jax.Array
    energy: jax.Array
    grad_norm: jax.Array
    displacement: jax.Array
    is_finite: jax.Array
    kept: Any = None


class Kernel(NamedTuple):
    """A Markov transition of many chains, as a pair of pure functions.

    Attributes:
        init: `init(x) -> State`, x [chains, ...] or a pytree of such.
        step: `step(rng_key, state) -> (State, Info)`; one key moves all chains.
    """

    init: Callable[[PyTree], Any]
    step: Callable[[jax.Array, Any], tuple[Any, Any]]


def from_log_density(logdensity_fn: Callable[[PyTree], jax.Array]) -> EnergyFn:
    """Return the energy `E(x) = -logdensity_fn(x)` of a log density of ONE position.

    `logdensity_fn` maps a single position (no chain axis) to a scalar, as is usual elsewhere; the
    energy maps [chains, ...] to [chains]. Additive constants do not matter. Kernels made from the
    same `logdensity_fn` share their compilations.
    """
    return jax.tree_util.Partial(_negated, logdensity_fn)


def _negated(logdensity_fn, x):
    return -jax.vmap(logdensity_fn)(x)


def check_energy(energy: jax.Array, x: PyTree) -> None:
    """Raise ValueError or TypeError unless `energy` is one real number per chain of `x`."""
    num_chains = jax.tree.leaves(x)[0].shape[0]
    dtype = jax.tree.leaves(x)[0].dtype
    shape = getattr(energy, "shape", None)
    if shape is None:
        raise TypeError(f"energy_fn returned a {type(energy).__name__}: return an array [chains]")
    if shape != (num_chains,):
        hint = "take [:, 0]" if shape == (num_chains, 1) else "sum over all axes but the first"
        raise ValueError(
            f"energy_fn returned shape {shape}: return ({num_chains},), one per chain; {hint}"
        )
    if not jnp.issubdtype(energy.dtype, jnp.floating):
        raise TypeError(f"energy_fn returned {energy.dtype}: return real floating-point energies")
    if (energy.dtype == jnp.float64) != (dtype == jnp.float64):
        raise TypeError(
            f"energy_fn returned {energy.dtype} for {dtype} positions: give the positions and the "
            "arrays inside energy_fn one float type"
        )


def energy_and_grad(energy_fn: EnergyFn, x: PyTree) -> tuple[jax.Array, PyTree]:
    """Energies [chains] and their gradients (shaped as `x`) in one forward and backward pass."""

    def total(x):
        energy = energy_fn(x)
        check_energy(energy, x)
        return jnp.sum(energy), energy

    (_, energy), grad = jax.value_and_grad(total, has_aux=True)(x)
    return energy, grad


def init_state(x: PyTree, *, energy_fn: EnergyFn) -> State:
    """State of fresh chains at `x`, numbered from 0. Costs one gradient."""
    num_chains = check_positions(x)
    x = jax.tree.map(jnp.asarray, x)
    energy, grad = energy_and_grad(energy_fn, x)
    return State(x, energy, grad, jnp.arange(num_chains, dtype=jnp.int32))


def is_finite(state: State) -> jax.Array:
    """Whether energy and gradient of each chain are free of NaN and infinities, bool [chains]."""
    # Any NaN or infinity survives the sum, at the cost of one addition per entry.
    return jnp.isfinite(state.energy) & jnp.isfinite(sum_over_dims(state.grad))
