"""One training step of any method, as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ebm_jax.data.preprocess import ArrayT
from ebm_jax.methods.base import Mean, Method, MethodState
from ebm_jax.training import divergence
from ebm_jax.training.state import TrainState


class Preprocess(Protocol):
    """What is done with stored examples before a method sees them."""

    def __call__(self, keys: jax.Array, x: ArrayT, /) -> ArrayT | jax.Array:
        """Examples in model units, of x [batch, ...] and a key each."""
        ...


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    rng_key: jax.Array,
    ema_decay: float,
    preprocess: Preprocess | None = None,
    num_parts: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """train_step(state, batch, *, axis_name=None) -> (state, metrics).

    All random numbers are keyed by fold_in(fold_in(rng_key, step), index in the global batch), so
    that the results do not depend on how many devices share the batch, and no key is carried.

    Args:
      method, optimizer: what to minimize and how.
      rng_key: of the whole run.
      ema_decay: d in ema <- d ema + (1 - d) params.
      preprocess: (keys [batch], examples [batch, ...]) -> examples in model units, on the device.
      num_parts: of a device's examples, whose gradients are computed one after the other. They
        share nothing but the parameters, as those of several devices do: the numbers are the same
        up to the order of the sums, and memory is that of one part.
    Returns:
      train_step. Under pmap or shard_map give it the axis that shares the batch: device i holds the
      i-th block of it. Metrics are means over the global batch, and the global norms 'grad_norm',
      'update_norm' and 'param_norm', all float32 scalars or arrays per level; and 'finite_so_far',
      bool, as metrics are not read at every step.
    """

    def train_step(state: TrainState, batch: dict[str, jax.Array], *, axis_name=None):
        step_key = jax.random.fold_in(divergence.retry_key(rng_key, state.attempt), state.step)
        preprocess_key, loss_key = jax.random.split(step_key)
        size = batch["image"].shape[0]
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        batch = {**batch, "index": first + jnp.arange(size), "step": state.step}
        if preprocess is not None:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(preprocess_key, batch["index"])
            batch["image"] = preprocess(keys, batch["image"])

        loss, grads, method_state, metrics = _loss_and_grad(
            method, state, batch, loss_key, num_parts
        )
        if axis_name is not None:  # one sum over devices, of everything that needs one
            shares = jax.tree.map(lambda g: g / jax.lax.axis_size(axis_name), (loss, grads))
            (loss, grads), metrics = jax.lax.psum((shares, metrics), axis_name)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema_decay)
        sizes = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        finite = state.finite_so_far & jnp.all(jnp.isfinite(jnp.stack([*sizes.values()])))
        metrics = {name: metric.value() for name, metric in metrics.items()}
        state = TrainState(
            state.step + 1, params, ema_params, opt_state, method_state, state.attempt, finite
        )
        return state, metrics | sizes | {"finite_so_far": finite}

    return train_step


def _loss_and_grad(
    method: Method, state: TrainState, batch: dict[str, jax.Array], loss_key: jax.Array, parts: int
) -> tuple[jax.Array, Any, MethodState, dict[str, Mean]]:
    """(loss, gradients, next method state, metrics) of the examples here, part after part."""

    def of_part(method_state: MethodState, part: dict[str, jax.Array]):
        (loss, (next_state, metrics)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            state.params, method_state, {**part, "step": state.step}, loss_key
        )
        metrics = {name: _as_mean(metric) for name, metric in metrics.items()}
        return (loss, grads, metrics), next_state

    shared, sharded = state.method_state
    examples = {name: values for name, values in batch.items() if name != "step"}
    if parts == 1:
        (loss, grads, metrics), method_state = of_part(state.method_state, examples)
        return loss, grads, method_state, metrics

    def split(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

    def add(carry: Any, part: Any):
        sums, _ = carry
        examples, sharded = part
        found, next_state = of_part(MethodState(shared, sharded), examples)
        # What is shared follows from the parameters, so that each part finds the same.
        return (jax.tree.map(jnp.add, sums, found), next_state.shared), next_state.sharded

    split_up = jax.tree.map(split, (examples, sharded))
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), split_up)
    like, _ = jax.eval_shape(lambda part: of_part(MethodState(shared, part[1]), part[0]), first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    ((loss, grads, metrics), shared), sharded = jax.lax.scan(add, (zeros, shared), split_up)
    loss, grads = jax.tree.map(lambda total: total / parts, (loss, grads))
    sharded = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sharded)
    return loss, grads, MethodState(shared, sharded), metrics


def _as_mean(metric: Mean | jax.Array) -> Mean:
    """An array is one of its device: summed as it is, it would grow with their number."""
    return metric if isinstance(metric, Mean) else Mean(metric, jnp.ones_like(metric))
