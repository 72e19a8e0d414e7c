"""One training step of any objective, as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ebm_jax.data.preprocess import example_keys
from ebm_jax.objectives.base import Mean, Objective
from ebm_jax.training import divergence

Preprocess = Callable[[jax.Array, jax.Array], jax.Array]  # (key, [batch, ...]) -> [batch, ...]


class TrainState(NamedTuple):
    """What a run is at one step; with the config, the data and nothing else it determines the rest.

    step: updates done, int32. params, ema_params: of the network, float32.
    opt_state: optax's. objective_state: spectral-norm vectors, replay buffer.
    attempt: how often the run went back to a checkpoint after diverging, int32; part of the key.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    objective_state: Any
    attempt: jax.Array


def init_train_state(
    rng_key: jax.Array,
    params: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    example_batch: dict[str, jax.Array],
) -> TrainState:
    """The state before the first step; example_batch is one device's, its images preprocessed."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),  # a copy, as both are donated
        opt_state=optimizer.init(params),
        objective_state=objective.init(rng_key, params, example_batch),
        attempt=jnp.zeros((), jnp.int32),
    )


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    rng_key: jax.Array,
    ema_decay: float,
    preprocess: Preprocess | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """train_step(state, batch, *, axis_name=None) -> (state, metrics).

    All draws are keyed by fold_in(fold_in(rng_key, step), place in the global batch), so that the
    numbers do not depend on how many devices share the batch, and no key is carried.

    Args:
      objective, optimizer: what to minimise and how.
      rng_key: of the whole run.
      ema_decay: d in ema <- d ema + (1 - d) params.
      preprocess: (keys [batch], images [batch, ...]) -> images in model units, on the device.
    Returns:
      train_step. Under pmap or shard_map give it the axis that shares the batch: device i holds the
      i-th block of it. Metrics are means over the global batch, and the global norms 'grad_norm',
      'update_norm' and 'param_norm'; all float32 scalars or arrays per level.
    """

    def train_step(state: TrainState, batch: dict[str, jax.Array], *, axis_name=None):
        step_key = jax.random.fold_in(divergence.retry_key(rng_key, state.attempt), state.step)
        preprocess_key, loss_key = jax.random.split(step_key)
        size = batch["image"].shape[0]
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        batch = {**batch, "index": first + jnp.arange(size)}
        if preprocess is not None:
            keys = example_keys(preprocess_key, batch["index"])
            batch["image"] = preprocess(keys, batch["image"])

        loss_and_grad = jax.value_and_grad(objective.loss, has_aux=True)
        (loss, (objective_state, metrics)), grads = loss_and_grad(
            state.params, state.objective_state, batch, loss_key
        )
        if axis_name is not None:  # one sum over devices, of everything that needs one
            shares = jax.tree.map(lambda g: g / jax.lax.axis_size(axis_name), (loss, grads))
            (loss, grads), metrics = jax.lax.psum((shares, metrics), axis_name)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema_decay)
        metrics = {name: m.value() if isinstance(m, Mean) else m for name, m in metrics.items()} | {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        state = TrainState(
            state.step + 1, params, ema_params, opt_state, objective_state, state.attempt
        )
        return state, metrics

    return train_step
