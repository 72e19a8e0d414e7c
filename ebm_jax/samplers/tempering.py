"""Parallel tempering: replicas at several temperatures that exchange positions."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._numbering import chain_indices
from ebm_jax.samplers._trees import PyTree, check_positions, distance, norm, parameter, wide_dtype
from ebm_jax.samplers.base import EnergyFn, Kernel


class TemperingState(NamedTuple):
    """`State` of the coldest replicas, with all replicas of each chain.

    Attributes:
        x, energy, grad, chain: of the replica at the first temperature, as in `State`.
        replicas: the inner kernel's state; each array is [chains, replicas, ...].
        num_rounds: steps made so far, int32 [chains]; its parity says which pairs exchange.
    """

    x: PyTree
    energy: jax.Array
    grad: PyTree
    chain: jax.Array
    replicas: Any
    num_rounds: jax.Array


class TemperingInfo(NamedTuple):
    """`Info` of the coldest replica, with what is needed to tune the temperatures.

    Attributes:
        acceptance, energy, grad_norm, displacement, kept: of the coldest replica, as in `Info`.
        is_finite: as in `Info`, for all replicas together.
        replica_acceptance: the inner kernel's, [chains, replicas]. A block: mean over its steps.
        swap_acceptance: probability of exchanging each neighboring pair, [chains, replicas - 1],
            also in the rounds that propose the other pairs. A block: mean over its steps.
    """

    acceptance: jax.Array
    energy: jax.Array
    grad_norm: jax.Array
    displacement: jax.Array
    is_finite: jax.Array
    replica_acceptance: jax.Array
    swap_acceptance: jax.Array
    kept: Any = None


class MakeReplicaKernel(Protocol):
    """The inner kernel of parallel tempering."""

    def __call__(self, energy_fn: EnergyFn, temperature: jax.Array, /) -> Kernel:
        """A kernel that leaves exp(-E / T) invariant, T [positions] one per position."""
        ...


def parallel_tempering(
    energy_fn: EnergyFn, temperatures: Any, make_kernel: MakeReplicaKernel
) -> Kernel:
    """Replicas at each temperature move by an inner kernel, then neighbors may exchange.

    The stationary distribution of replica r is `exp(-E / T_r)`. After each move, positions of
    replicas r and r + 1 are exchanged with probability
    `min(1, exp((1/T_r - 1/T_{r+1}) (E_r - E_{r+1})))`, for even r in one round and odd r in the
    next (the non-reversible scheme of Okabe et al. 2001; Syed et al. 2022). All replicas of all
    chains move in one batch; an exchange costs no energy. A step costs the inner kernel's gradients
    at chains x replicas positions.

    Args:
        energy_fn: [chains, ...] -> [chains].
        temperatures: [replicas], T > 0 each; the state's `x` is at the first, usually 1. Good are
            swap acceptances near 0.3 to 0.5 for all pairs.
        make_kernel: from `energy_fn` and the temperature of each position, [positions], to a
            kernel, such as
            `lambda energy_fn, t: mala(energy_fn, 0.1 * t, temperature=t)`. The inner kernel must
            leave exp(-E / T) invariant for the exchange to be exact.

    Returns:
        A Kernel with TemperingState and TemperingInfo.

    Raises ValueError for fewer than two temperatures or any that is not positive.
    """
    if not isinstance(temperatures, jax.Array):
        temperatures = np.asarray(temperatures)
    values: jax.Array = parameter(temperatures, "temperatures")
    if values.ndim != 1 or values.shape[0] < 2:
        raise ValueError(
            f"expected temperatures [replicas], at least two, got shape {values.shape}"
        )
    settings = {"energy_fn": energy_fn, "temperatures": values, "make_kernel": make_kernel}
    return Kernel(Partial(_init, **settings), Partial(_step, **settings))


def _flatten(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), tree)


def _unflatten(tree: PyTree, num_replicas: int) -> PyTree:
    return jax.tree.map(lambda a: a.reshape((-1, num_replicas, *a.shape[1:])), tree)


def _inner_kernel(
    energy_fn: EnergyFn, temperatures: jax.Array, make_kernel: MakeReplicaKernel, num_chains: int
) -> Kernel:
    return make_kernel(energy_fn, jnp.tile(temperatures, num_chains))


def _outer_state(replicas: Any, chain: jax.Array, num_rounds: jax.Array) -> TemperingState:
    x, energy, grad = jax.tree.map(lambda a: a[:, 0], (replicas.x, replicas.energy, replicas.grad))
    return TemperingState(x, energy, grad, chain, replicas, num_rounds)


def _init(
    x: PyTree, *, energy_fn: EnergyFn, temperatures: jax.Array, make_kernel: MakeReplicaKernel
) -> TemperingState:
    num_chains, num_replicas = check_positions(x), temperatures.shape[0]
    inner = _inner_kernel(energy_fn, temperatures, make_kernel, num_chains)
    repeated = jax.tree.map(lambda a: jnp.repeat(a, num_replicas, axis=0), x)
    replicas = _unflatten(inner.init(repeated), num_replicas)
    chain = chain_indices(x, num_chains)
    return _outer_state(replicas, chain, jnp.zeros_like(chain))


def _step(
    rng_key: jax.Array,
    state: TemperingState,
    *,
    energy_fn: EnergyFn,
    temperatures: jax.Array,
    make_kernel: MakeReplicaKernel,
) -> tuple[TemperingState, TemperingInfo]:
    num_chains, num_replicas = state.chain.shape[0], temperatures.shape[0]
    inner = _inner_kernel(energy_fn, temperatures, make_kernel, num_chains)
    index = state.chain[:, None] * num_replicas + np.arange(num_replicas)
    moved, info = inner.step(
        random.fold_in(rng_key, 0), _flatten(state.replicas._replace(chain=index))
    )
    moved, info = _unflatten(moved, num_replicas), _unflatten(info, num_replicas)

    swap_key = random.fold_in(rng_key, 1)
    dtype = wide_dtype(moved.energy.dtype)
    log_u = jnp.log(random.uniform(swap_key, index.reshape(-1), (), dtype)).reshape(index.shape)
    source, swap_acceptance = exchange(moved.energy, temperatures, log_u, state.num_rounds)

    def permute(a: jax.Array) -> jax.Array:
        return jnp.take_along_axis(a, source.reshape(source.shape + (1,) * (a.ndim - 2)), axis=1)

    # Momenta and the like stay with their temperature: there they are independent of the position.
    fields = [name for name in ("x", "energy", "grad", "remainder") if hasattr(moved, name)]
    exchanged = jax.tree.map(permute, {name: getattr(moved, name) for name in fields})
    # The replicas' indices are made anew in each step from those of their chains.
    replicas = moved._replace(**exchanged, chain=state.replicas.chain)
    new = _outer_state(replicas, state.chain, state.num_rounds + 1)
    return new, TemperingInfo(
        acceptance=info.acceptance[:, 0],
        energy=state.energy,
        grad_norm=norm(state.grad),
        displacement=distance(new.x, state.x),
        is_finite=jnp.all(info.is_finite, axis=1),
        replica_acceptance=info.acceptance,
        swap_acceptance=swap_acceptance,
    )


def exchange(
    energy: jax.Array, temperatures: jax.Array, log_u: jax.Array, num_rounds: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Decide which neighboring replicas exchange.

    Args:
        energy: E of each replica, [chains, replicas].
        temperatures: [replicas].
        log_u: logarithms of uniform numbers, [chains, replicas]; the one at r decides on the pair
            (r, r + 1).
        num_rounds: [chains]; pairs with r of the same parity are proposed.

    Returns:
        (source, acceptance): the replica whose position each takes, int [chains, replicas], and
        the acceptance probability of each pair, [chains, replicas - 1].
    """
    num_replicas = energy.shape[1]
    energy = energy.astype(wide_dtype(energy.dtype))
    inverse = (1 / temperatures).astype(energy.dtype)
    log_ratio = (inverse[:-1] - inverse[1:]) * (energy[:, :-1] - energy[:, 1:])
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    lower = np.arange(num_replicas - 1)
    proposed = lower % 2 == num_rounds[:, None] % 2
    swap = (proposed & (log_u[:, :-1] < log_ratio)).astype(jnp.int32)
    no = jnp.zeros_like(swap[:, :1])
    up, down = jnp.concatenate([swap, no], axis=1), jnp.concatenate([no, swap], axis=1)
    source = jnp.arange(num_replicas) + up - down
    return source, jnp.exp(jnp.minimum(log_ratio, 0))
