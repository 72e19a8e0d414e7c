"""The contract of a sampler: a kernel of two pure functions, its state, and what it reports."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ebm_jax.samplers._compilation import Static, is_data
from ebm_jax.samplers._numbering import chain_indices
from ebm_jax.samplers._trees import (
    PyTree,
    cast_like,
    check_positions,
    distance,
    flatten,
    norm,
    sum_over_dims,
    wide_dtype,
    widen,
)


class EnergyFn(Protocol):
    """An energy: `p(x) ∝ exp(-energy_fn(x))`."""

    def __call__(self, x: PyTree, /) -> jax.Array:
        """Energies of many positions.

        Args:
            x: [chains, ...] or a pytree of such.

        Returns:
            [chains], real; row i is a function of row i of `x` alone.
        """
        ...


class State(NamedTuple):
    """State of the chains. Other kernels' states begin with the first four of these fields.

    Attributes:
        x: positions, [chains, ...] or a pytree of such.
        energy: energy of `x`, [chains].
        grad: gradient of the energy at `x`, shaped as `x`.
        chain: global index of each chain, int32 [chains]. It picks the chain's random numbers and
            travels with it when a state is sliced or spread over devices.
        remainder: what rounding to bfloat16 or float16 has taken from `x`, float32, shaped as `x`;
            None where `x` is float32 or float64. Half-precision chains move in `x + remainder`, so
            that steps below the spacing of `x` are not lost.
    """

    x: PyTree
    energy: jax.Array
    grad: PyTree
    chain: jax.Array
    remainder: PyTree = None


class Info(NamedTuple):
    """Record of one step, or of a block; every array is [chains] (runs: [..., chains]).

    Other kernels' infos have these fields and more. In a block, further fields hold their mean over
    its steps, or, where boolean, whether any step's was true.

    Attributes:
        acceptance: probability with which the move was accepted, in [0, 1]; 1 where nothing is
            tested. A block holds the mean over its steps.
        energy: energy of the point that the step started from (the point whose gradient made the
            move; `State.energy` has that of the new point). A block holds its last step's.
        grad_norm: Euclidean norm of the gradient at that same point. A block: its last step's.
        displacement: Euclidean distance between the positions at the two ends of the step, or of
            the block. A block that accepts and yet stays far below the spread of the chains is
            stuck, however good its acceptance: see `roughness`.
        is_finite: whether the energies and gradients behind the move are finite: those of the start
            and, where there is a test, of the proposal. A block: whether this held at each step.
        kept: what the runner kept, [blocks, ...], else None.
    """

    acceptance: jax.Array
    energy: jax.Array
    grad_norm: jax.Array
    displacement: jax.Array
    is_finite: jax.Array
    kept: PyTree = None


class InitFn(Protocol):
    """The first half of a kernel."""

    def __call__(self, x: PyTree, /) -> Any:
        """State of fresh chains at `x`, [chains, ...] or a pytree of such; a pure function."""
        ...


class StepFn(Protocol):
    """The second half of a kernel."""

    def __call__(self, rng_key: jax.Array, state: Any, /) -> tuple[Any, Any]:
        """Move all chains once; a pure function.

        Args:
            rng_key: one key for all chains; chain i uses the draws of its index `state.chain[i]`.
            state: from `init` or an earlier step.

        Returns:
            The new state, of the same structure and types, and an Info.
        """
        ...


class Kernel(NamedTuple):
    """A Markov transition of many chains, as a pair of pure functions.

    A pytree whose leaves are the arrays inside the two functions (step sizes, the parameters of an
    energy that is a `jax.tree_util.Partial`), so a kernel may be an argument of `jax.jit`.

    Attributes:
        init: `init(x) -> State`, x [chains, ...] or a pytree of such.
        step: `step(rng_key, state) -> (State, Info)`; one key moves all chains.
    """

    init: InitFn
    step: StepFn


def _flatten_kernel(kernel: Kernel) -> tuple[list[Any], Hashable]:
    leaves, structure = flatten((kernel.init, kernel.step))
    mask = tuple(is_data(leaf) for leaf in leaves)
    data = [leaf for leaf, d in zip(leaves, mask, strict=True) if d]
    fixed = tuple(Static(leaf) for leaf, d in zip(leaves, mask, strict=True) if not d)
    return data, (structure, mask, fixed)


def _unflatten_kernel(context: Any, data: Sequence[Any]) -> Kernel:
    structure, mask, fixed = context
    arrays, others = iter(data), iter(fixed)
    leaves = [next(arrays) if d else next(others).value for d in mask]
    init, step = structure.unflatten(leaves)
    return Kernel(init, step)


jax.tree_util.register_pytree_node(Kernel, _flatten_kernel, _unflatten_kernel)


class LogDensityFn(Protocol):
    """A log density of one position, up to a constant."""

    def __call__(self, x: PyTree, /) -> jax.Array:
        """Log density, [], of one position (no chain axis)."""
        ...


def from_log_density(logdensity_fn: LogDensityFn) -> EnergyFn:
    """Return the energy `E(x) = -logdensity_fn(x)` of a log density of ONE position.

    `logdensity_fn` maps a single position (no chain axis) to a scalar, as is usual elsewhere; the
    energy maps [chains, ...] to [chains]. Additive constants do not matter. Kernels made from the
    same `logdensity_fn` share their compilations.
    """
    return Partial(_negated, logdensity_fn)


def _negated(logdensity_fn: LogDensityFn, x: PyTree) -> jax.Array:
    return -jax.vmap(logdensity_fn)(x)


def check_energy(energy: Any, x: PyTree) -> None:
    """Raise ValueError or TypeError unless `energy` is one real number per chain of `x`."""
    num_chains = jax.tree.leaves(x)[0].shape[0]
    dtype = jax.tree.leaves(x)[0].dtype
    shape = getattr(energy, "shape", None)
    if shape is None:
        raise TypeError(
            f"expected energy_fn to return an array [chains], got a {type(energy).__name__}"
        )
    if shape != (num_chains,):
        hint = "take [:, 0]" if shape == (num_chains, 1) else "sum over all axes but the first"
        raise ValueError(
            f"expected energy_fn to return shape ({num_chains},), one per chain, got {shape}: "
            f"{hint}"
        )
    if not jnp.issubdtype(energy.dtype, jnp.floating):
        raise TypeError(
            f"expected energy_fn to return real floating-point energies, got {energy.dtype}"
        )
    if (energy.dtype == jnp.float64) != (dtype == jnp.float64):
        raise TypeError(
            f"expected energy_fn and positions of one float type, got {energy.dtype} for {dtype} "
            "positions: cast the positions or the arrays inside energy_fn"
        )


def energy_and_grad(energy_fn: EnergyFn, x: PyTree) -> tuple[jax.Array, PyTree]:
    """Energies and their gradients in one forward and backward pass.

    Args:
        energy_fn: [chains, ...] -> [chains].
        x: positions, [chains, ...] or a pytree of such.

    Returns:
        Energies [chains] and gradients shaped as `x`. The energies are those of the positions
        alone: they may be summed because chains do not interact.

    Raises ValueError or TypeError unless `energy_fn` returns one real number per chain.
    """

    def total(x: PyTree) -> tuple[jax.Array, jax.Array]:
        energy = energy_fn(x)
        check_energy(energy, x)
        # Only the gradient of this sum is used, so that its value may overflow a half type.
        return jnp.sum(energy), energy

    (_, energy), grad = jax.value_and_grad(total, has_aux=True)(x)
    return energy, grad


def init_state(x: PyTree, *, energy_fn: EnergyFn) -> State:
    """State of fresh chains at `x`, numbered from 0 or from this device's share. One gradient."""
    num_chains = check_positions(x)
    x = jax.tree.map(jnp.asarray, x)
    energy, grad = energy_and_grad(energy_fn, x)
    _, remainder = round_like(widen(x), x)
    return State(x, energy, grad, chain_indices(x, num_chains), remainder)


def round_like(x: PyTree, like: PyTree) -> tuple[PyTree, PyTree]:
    """`x` rounded to the types of `like`, and what that has taken from it (None if nothing)."""
    rounded = cast_like(x, like)
    if jax.tree.leaves(x)[0].dtype == jax.tree.leaves(like)[0].dtype:
        return rounded, None
    return rounded, jax.tree.map(jnp.subtract, x, rounded)


def positions(state: Any) -> PyTree:
    """Positions of a state in float32 at least, with what rounding has taken from them."""
    remainder = getattr(state, "remainder", None)
    x = widen(state.x)
    return x if remainder is None else jax.tree.map(jnp.add, x, remainder)


def move_to(energy_fn: EnergyFn, state: Any, x: PyTree) -> Any:
    """The state with its chains at `x` (float32 at least). Costs one gradient."""
    rounded, remainder = round_like(x, state.x)
    energy, grad = energy_and_grad(energy_fn, rounded)
    return state._replace(x=rounded, energy=energy, grad=grad, remainder=remainder)


def is_finite(state: Any) -> jax.Array:
    """Whether energy and gradient of each chain are free of NaN and infinities, bool [chains]."""
    # Any NaN or infinity survives the sum, at the cost of one addition per entry.
    return jnp.isfinite(state.energy) & jnp.isfinite(sum_over_dims(state.grad))


def untested_info(state: Any, new: Any) -> Info:
    """Info of an unadjusted step from `state` to `new`."""
    return Info(
        acceptance=jnp.ones_like(state.energy, dtype=wide_dtype(state.energy.dtype)),
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(positions(new), positions(state)),
        is_finite=is_finite(state),
    )
