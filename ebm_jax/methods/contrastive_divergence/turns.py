"""Chains on which checkpoints take turns."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import networks, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods.base import Params
from ebm_jax.networks.ensemble import CYCLE, Ensemble


def cycle_of(network: nn.Module) -> Ensemble | None:
    """The network, where it is one of checkpoints that take turns."""
    return network if isinstance(network, Ensemble) and network.combine == CYCLE else None


def energies_in_turn(
    network: nn.Module, normalized: Params, condition: jax.Array | None, temperature: float
) -> Sequence[EnergyFn]:
    """The energies that a chain runs on in turn: of each checkpoint of a cycle, or the one."""
    cycle = cycle_of(network)
    if cycle is None:
        return (networks.bind(network, normalized, condition, scale=temperature),)
    scale = cycle.scale(temperature)
    return [
        networks.bind(cycle.base, params, condition, scale=scale)
        for params in cycle.turns(normalized)
    ]


def run_in_turn(
    rng_key: jax.Array,
    kernels: Sequence[samplers.Kernel],
    x: jax.Array,
    num_steps: int,
    *,
    turn: int,
) -> jax.Array:
    """Ends of chains of num_steps steps; of several kernels each has turns of `turn` steps.

    Raises:
      ValueError: for chains so short that not every kernel has a whole turn.
    """
    if len(kernels) == 1:
        return samplers.run_chain(rng_key, kernels[0], x, num_steps)[0].x
    if num_steps < len(kernels) * turn:
        raise ValueError(
            f"expected chains of at least {len(kernels) * turn} steps, so that each "
            f"of {len(kernels)} checkpoints has a turn of {turn} "
            f"(ensemble.combine='cycle'), got {num_steps}"
        )

    def turns(x: jax.Array, number: Any, lengths: Sequence[int]) -> jax.Array:
        for i, length in enumerate(lengths):
            key = jax.random.fold_in(rng_key, number * len(kernels) + i)
            x = samplers.run_chain(key, kernels[i], x, length)[0].x
        return x

    num_cycles, rest = divmod(num_steps, len(kernels) * turn)
    whole = [turn] * len(kernels)
    x, _ = jax.lax.scan(
        lambda x, number: (turns(x, number, whole), None), x, jnp.arange(num_cycles)
    )
    full, part = divmod(rest, turn)
    return turns(x, num_cycles, [turn] * full + [part] * (part > 0))
