"""Labels that samples have in turn, and chains on which energies take turns."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.methods.base import Index
from ebm_jax.samplers import random


def in_turn(index: Index, labels: jax.Array, num_classes: int | None) -> jax.Array:
    """Labels [batch, ...] by index; a blend's are mixed, classes as distributions over them."""
    if not isinstance(index, random.Blend):
        return labels[index % len(labels)]
    shares = index.first_weight**2, index.second_weight**2
    if num_classes is not None:
        labels = jax.nn.one_hot(labels, num_classes)
    first, second = (
        (share / (shares[0] + shares[1]))[:, None] * labels[one % len(labels)]
        for share, one in zip(shares, (index.first, index.second), strict=True)
    )
    return first + second


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
