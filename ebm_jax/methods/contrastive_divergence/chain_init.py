"""Initialization of MCMC chains for contrastive divergence, and what is kept for the next step."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.methods.base import Index, per_example
from ebm_jax.methods.densities import uniform_noise
from ebm_jax.samplers import random

INITS = ("replay_buffer", "persistent", "data", "noise", "context")
NOISES = ("uniform", "normal")

Noise = Callable[[jax.Array, jax.Array], jax.Array]  # (key, index [batch]) -> x [batch, ...]


class ChainInit(NamedTuple):
    """Three pure functions; `memory` is what one step leaves for the next, () for nothing.

    The leaves of memory have a leading axis that is split over the devices.

    init: (x_pos [batch, ...], label) -> memory of a global batch.
    start: (rng_key, memory, x_pos, label, index [batch]) -> (x like x_pos, label of the chains,
        origin): origin maps 'buffer', 'chain', 'data', 'noise', 'context' to whether a chain
        started there, bool [batch].
    update: (memory, x_neg, label) -> memory, x_neg [batch, ...] the ends of the chains.
    A label is of the examples, or of the chains, [batch, ...]; None: unconditional.
    """

    init: Callable[[jax.Array, jax.Array | None], Any]
    start: Callable[..., tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]]
    update: Callable[[Any, jax.Array, jax.Array | None], Any]


class LabeledBuffer(NamedTuple):
    """Ends of chains, and their labels: two buffers that are written and drawn from alike."""

    x: samplers.ReplayState
    label: samplers.ReplayState


class PersistentChains(NamedTuple):
    """Ends x [batch, ...] of the chains of the step before; is_started: bool [batch]."""

    x: jax.Array
    is_started: jax.Array


@functools.cache  # one function for equal arguments: programs that it is part of are found again
def box_noise(kind: str, shape: tuple[int, ...], low: float, high: float) -> Noise:
    """Fresh starts of chains, each a function of (rng_key, its index).

    'uniform': in the box. 'normal': about its center with a standard deviation of half its width,
    not clipped (the published dSprites program).

    Raises:
      ValueError: for another kind.
    """
    if kind not in NOISES:
        raise ValueError(f"init_noise: expected one of {', '.join(NOISES)}, got {kind!r}")

    def noise(rng_key: jax.Array, index: jax.Array) -> jax.Array:
        if kind == "uniform":
            return uniform_noise(rng_key, index, shape, low, high)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, index)
        z = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return (low + high) / 2 + (high - low) / 2 * z

    return noise


def check_box(x: jax.Array, low: float, high: float) -> None:
    """Raises ValueError for examples x outside the box of the chains."""
    values = np.asarray(x)
    smallest, largest = values.min(), values.max()
    if smallest < low or largest > high:
        raise ValueError(
            f"low, high: expected a box that contains the data, {smallest:g} to {largest:g}, got "
            f"{low:g} to {high:g}"
        )


def from_replay_buffer(
    noise: Noise, *, capacity: int, batch_size: int, num_shards: int, low: float, high: float,
    storage: str, replay_probability: float, has_labels: bool = False,
) -> ChainInit:  # fmt: skip
    """Starts from the ends of earlier chains, from the third step on; see `samplers.replay_buffer`.

    A chain has the label of the example that it stands beside, or with labels in the buffer that of
    the chain which it goes on from.

    Args:
      noise: of the chains that start afresh. capacity, batch_size: of all devices together; what
        the shards do not divide of the capacity is left out.
      num_shards: rings that never exchange entries; a multiple of the number of devices.
    Raises:
      ValueError: for shards that do not divide the batch, and a buffer smaller than the batch.
    """
    if batch_size % num_shards:
        raise ValueError(
            f"method.buffer_shards: expected a divisor of the batch {batch_size}, got {num_shards}"
        )
    capacity = capacity // num_shards * num_shards
    if capacity < batch_size:
        raise ValueError(
            f"method.buffer_size: expected at least the batch, {batch_size}, got {capacity}"
        )
    make_buffer = functools.partial(
        samplers.replay_buffer,
        capacity,
        low=low,
        high=high,
        replay_probability=replay_probability,
        # The published code replays from its third step on; a smaller buffer once it is full.
        min_size=min(2 * batch_size, capacity),
        num_shards=num_shards,
    )
    buffer, labels = make_buffer(storage=storage), make_buffer(storage="float")

    def init(x_pos, label):
        entries = buffer.init(x_pos)
        return LabeledBuffer(entries, labels.init(label)) if has_labels else entries

    def start(rng_key, memory, x_pos, label, index):
        del x_pos
        noise_key, draw_key = jax.random.split(rng_key)
        fresh = noise(noise_key, index)
        entries = memory.x if has_labels else memory
        x, is_replayed = buffer.draw(draw_key, entries, fresh, first_chain=index[0])
        if has_labels:  # by the same key: which entries are drawn depends on nothing else
            label, _ = labels.draw(draw_key, memory.label, label, first_chain=index[0])
        return x, label, {"buffer": is_replayed, "noise": ~is_replayed}

    def update(memory, x_neg, label):
        if not has_labels:
            return buffer.push(memory, x_neg)
        return LabeledBuffer(buffer.push(memory.x, x_neg), labels.push(memory.label, label))

    return ChainInit(init, start, update)


def from_last_step(noise: Noise) -> ChainInit:
    """Starts where the chains of the step before ended (Tieleman 2008)."""

    def start(rng_key, memory, x_pos, label, index):
        del x_pos
        is_started = memory.is_started
        x = jnp.where(per_example(is_started, memory.x), memory.x, noise(rng_key, index))
        return x, label, {"chain": is_started, "noise": ~is_started}

    def init(x_pos, label):
        del label
        return PersistentChains(jnp.zeros_like(x_pos), jnp.zeros(x_pos.shape[0], bool))

    def update(memory, x_neg, label):
        del memory, label
        return PersistentChains(x_neg, jnp.ones(x_neg.shape[0], bool))

    return ChainInit(init, start, update)


def from_data() -> ChainInit:
    """Starts at the examples themselves (Hinton 2002)."""
    return _without_memory("data", lambda rng_key, x_pos, label, index: x_pos)


def from_noise(noise: Noise) -> ChainInit:
    """Starts from fresh noise at every step."""
    return _without_memory("noise", lambda rng_key, x_pos, label, index: noise(rng_key, index))


def from_context(near: Callable[..., jax.Array]) -> ChainInit:
    """Starts at near(rng_key, index, label), about the last frame that an example is given."""
    return _without_memory(
        "context", lambda rng_key, x_pos, label, index: near(rng_key, index, label)
    )


def near_last_frame(
    rng_key: jax.Array, index: jax.Array, label: jax.Array, shape: tuple[int, ...], noise: float
) -> jax.Array:
    """The last values of label [batch, k] as x [batch, *shape], plus U(-noise, noise) each."""
    last = label[:, -math.prod(shape) :].reshape(-1, *shape)
    return last + uniform_noise(rng_key, index, shape, -noise, noise) if noise else last


def _without_memory(name: str, make: Callable[..., jax.Array]) -> ChainInit:
    def start(rng_key, memory, x_pos, label, index):
        del memory
        return make(rng_key, x_pos, label, index), label, {name: jnp.ones(index.shape, bool)}

    return ChainInit(lambda x_pos, label: (), start, lambda memory, x_neg, label: memory)


def blended_noise(
    noise: Callable[[jax.Array], jax.Array],
    kind: str,
    index: Index,
    low: float,
    high: float,
) -> jax.Array:
    """Starts in the box of chains or of blends, a blend's between those of its two.

    'normal' starts are blended about the box's center; 'uniform' ones by way of their normal
    quantiles. So with weights on the unit circle a blend's start is distributed as a start, and
    with a weight of 1 it is exactly that one's.

    Args:
      noise: index [batch] -> starts [batch, ...]. kind: 'uniform' or 'normal'.
    """
    if not isinstance(index, random.Blend):
        return noise(index)
    ends = [noise(one) for one in (index.first, index.second)]
    first, second = (
        per_example(weight, ends[0]) for weight in (index.first_weight, index.second_weight)
    )
    center, width = (low + high) / 2, high - low
    if kind == "normal":
        between = center + first * (ends[0] - center) + second * (ends[1] - center)
    else:
        least = 2.0**-24  # the quantile of 0 is not finite
        z = [
            jax.scipy.special.ndtri(jnp.clip((end - low) / width, least, 1 - least)) for end in ends
        ]
        between = low + width * jax.scipy.special.ndtr(first * z[0] + second * z[1])
    return jnp.where(second == 0, ends[0], jnp.where(first == 0, ends[1], between))
