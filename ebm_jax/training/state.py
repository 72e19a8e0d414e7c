"""The state of a training run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ebm_jax.methods.base import Method, MethodState, Params


class TrainState(NamedTuple):
    """A run at one step; with the config, the data and nothing else it determines the rest.

    step: updates done, int32. params, ema_params: of the method, float32.
    opt_state: optax's. method_state: spectral-norm vectors, replay buffer.
    attempt: how often the run went back to a checkpoint after diverging, int32; part of the key.
    finite_so_far: whether every step was finite, bool; see `divergence.check`.
    """

    step: jax.Array
    params: Params
    ema_params: Params
    opt_state: Any
    method_state: MethodState
    attempt: jax.Array
    finite_so_far: jax.Array


def init_train_state(
    rng_key: jax.Array,
    method: Method,
    optimizer: optax.GradientTransformation,
    example_batch: Mapping[str, jax.Array],
) -> TrainState:
    """The state before the first step; example_batch is a global one, its examples preprocessed."""
    params, method_state = method.init(rng_key, example_batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),  # a copy, as both are donated
        opt_state=optimizer.init(params),
        method_state=method_state,
        attempt=jnp.zeros((), jnp.int32),
        finite_so_far=jnp.ones((), bool),
    )
