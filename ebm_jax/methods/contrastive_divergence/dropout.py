"""Dropout in the energies of chains: other masks, so another energy, at each step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.samplers import random


def keep_masks(network: nn.Module, rng_key: jax.Array, index: jax.Array) -> dict[str, Any]:
    """Inputs of one evaluation of the network: masks of rate 1/2, by (rng_key, index) each."""
    like = [jnp.zeros((index.shape[0], *shape)) for shape in network.mask_shapes]
    return {"keep_masks": [noise > 0 for noise in random.normal(rng_key, index, like)]}


def with_dropout(
    kernel: samplers.Kernel, masked: Callable[..., samplers.Kernel], network: nn.Module
) -> samplers.Kernel:
    """The kernel, begun without masks, each of whose steps has fresh ones.

    masked: (keep_masks=...) -> kernel of the energy under these masks.
    """

    def step(rng_key, state):
        masks = keep_masks(network, jax.random.fold_in(rng_key, 1), state.chain)
        return masked(**masks).step(rng_key, state)

    return samplers.Kernel(kernel.init, step)
