"""What an objective is: three pure functions; the train step knows no more of a method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Objective(NamedTuple):
    """A training method.

    init: (rng_key, params, example_batch) -> objective_state.
    loss: (params, objective_state, batch, rng_key) -> (loss [], (objective_state, metrics)).
        batch holds 'image' [batch, ...] in model units, 'label' [batch] and, where the batch is a
        part of a larger one, 'index' [batch], each example's place in the whole; draws are keyed by
        (rng_key, index). metrics maps names to `Mean`.
    sample: (rng_key, params, num_samples, *, first_sample=0) -> x [num_samples, ...] from the
        parameters alone. Sample i is a function of (rng_key, first_sample + i), so that batches and
        devices can each make a part of one set.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    sample: Callable[..., jax.Array]


_MOST_LOGGED, _GROUPS = 20, 10  # levels by themselves; else groups of levels


class ObjectiveState(NamedTuple):
    """What an objective carries from step to step; () for what it does not use.

    power_state: spectral-norm vectors, the same on every device.
    replay_buffer: starts of persistent chains; each device has a shard of its own.
    """

    power_state: Any = ()
    replay_buffer: Any = ()


class Mean(NamedTuple):
    """A metric as a sum and a count of equal shapes, so that shards of a batch add up."""

    total: jax.Array
    count: jax.Array

    def value(self) -> jax.Array:
        """total / count; NaN where nothing was counted (a level that no example had)."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1), jnp.nan)


def mean_over_batch(values: jax.Array) -> Mean:
    """The mean of values [batch]."""
    return Mean(jnp.sum(values), jnp.asarray(values.shape[0], jnp.float32))


def mean_per_level(values: jax.Array, level: jax.Array, num_levels: int) -> Mean:
    """Means of values [batch] by level [batch]: a Mean of arrays [num_levels]."""
    member = jax.nn.one_hot(level, num_levels, dtype=jnp.float32)
    return Mean(values @ member, member.sum(axis=0))


def figures_per_level(
    figures: dict[str, jax.Array], level: jax.Array, num_levels: int
) -> dict[str, Mean]:
    """Means of figures [batch] by level [batch], for the log.

    An array over the levels each; of more than 20 levels, ten scalars 'name/levels_0_to_99', ..,
    as a batch has few of a thousand levels and a log of all of them is no log.
    """
    if num_levels <= _MOST_LOGGED:
        return {name: mean_per_level(v, level, num_levels) for name, v in figures.items()}
    first = [-(-i * num_levels // _GROUPS) for i in range(_GROUPS + 1)]  # where i-th groups begin
    metrics = {}
    for name, values in figures.items():
        total, count = mean_per_level(values, level * _GROUPS // num_levels, _GROUPS)
        for i in range(_GROUPS):
            of_group = f"{name}/levels_{first[i]}_to_{first[i + 1] - 1}"
            metrics[of_group] = Mean(total[i], count[i])
    return metrics


def example_index(batch: dict[str, jax.Array]) -> jax.Array:
    """Each example's place in the global batch, int [batch]."""
    return batch.get("index", jnp.arange(batch["image"].shape[0]))
