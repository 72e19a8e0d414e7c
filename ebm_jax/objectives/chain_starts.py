"""Where the chains of contrastive divergence start, and what is kept for the next step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.data.preprocess import example_keys

STARTS = ("replay_buffer", "persistent", "data", "noise")
NOISES = ("uniform", "normal")

Noise = Callable[[jax.Array, jax.Array], jax.Array]  # (key, index [batch]) -> x [batch, ...]


class ChainStarts(NamedTuple):
    """Three pure functions; `memory` is what one step leaves for the next, () for nothing.

    init: (x_pos [batch, ...]) -> memory.
    draw: (rng_key, memory, x_pos, index [batch]) -> (x like x_pos, started): started maps the
        places 'buffer', 'chain', 'data', 'noise' to whether a chain started there, bool [batch].
    remember: (memory, x_neg) -> memory, x_neg [batch, ...] the ends of the chains.
    """

    init: Callable[[jax.Array], Any]
    draw: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    remember: Callable[[Any, jax.Array], Any]


class PersistentChains(NamedTuple):
    """Ends x [batch, ...] of the chains of the step before; is_started: there was one, bool []."""

    x: jax.Array
    is_started: jax.Array


def box_noise(kind: str, shape: tuple[int, ...], low: float, high: float) -> Noise:
    """Fresh starts of chains, each a function of (rng_key, its index).

    'uniform': in the box. 'normal': about its centre with a standard deviation of half its width,
    not clipped (the published dSprites program).
    """
    if kind not in NOISES:
        raise ValueError(f"start_noise is {kind!r}: write one of {', '.join(NOISES)}")

    def one(key: jax.Array) -> jax.Array:
        if kind == "uniform":
            return jax.random.uniform(key, shape, minval=low, maxval=high)
        return (low + high) / 2 + (high - low) / 2 * jax.random.normal(key, shape)

    return lambda rng_key, index: jax.vmap(one)(example_keys(rng_key, index))


def chain_starts(
    name: str,
    noise: Noise,
    *,
    low: float,
    high: float,
    buffer_size: int,
    buffer_storage: str,
    replay_probability: float,
    num_shards: int,
) -> ChainStarts:
    """'replay_buffer', 'persistent', 'data' or 'noise'; see `contrastive_divergence`.

    Raises:
      ValueError: for another name; as `samplers.replay_buffer`, by init for too small a buffer.
    """
    if name == "replay_buffer":

        def replay_buffer(batch_size: int) -> samplers.ReplayBuffer:
            return samplers.replay_buffer(
                buffer_size // num_shards,
                storage=buffer_storage,
                low=low,
                high=high,
                replay_probability=replay_probability,
                min_size=2 * batch_size,  # the published code replays from its third step on
            )

        return _from_buffer(replay_buffer, noise)
    if name == "persistent":
        return _persistent(noise)
    if name not in STARTS:
        raise ValueError(f"starts is {name!r}: write one of {', '.join(STARTS)}")

    def draw(rng_key, memory, x_pos, index):
        everyone = jnp.ones(index.shape, bool)
        return (x_pos if name == "data" else noise(rng_key, index)), {name: everyone}

    return ChainStarts(lambda x_pos: (), draw, lambda memory, x_neg: memory)


def _from_buffer(
    replay_buffer: Callable[[int], samplers.ReplayBuffer], noise: Noise
) -> ChainStarts:
    def draw(rng_key, memory, x_pos, index):
        noise_key, draw_key = jax.random.split(rng_key)
        buffer = replay_buffer(x_pos.shape[0])
        fresh = noise(noise_key, index)
        x, is_replayed = buffer.draw(draw_key, memory, fresh, first_chain=index[0])
        return x, {"buffer": is_replayed, "noise": ~is_replayed}

    return ChainStarts(
        lambda x_pos: replay_buffer(x_pos.shape[0]).init(x_pos),
        draw,
        lambda memory, x_neg: replay_buffer(x_neg.shape[0]).push(memory, x_neg),
    )


def _persistent(noise: Noise) -> ChainStarts:
    def draw(rng_key, memory, x_pos, index):
        x = jnp.where(memory.is_started, memory.x, noise(rng_key, index))
        is_started = jnp.broadcast_to(memory.is_started, index.shape)
        return x, {"chain": is_started, "noise": ~is_started}

    return ChainStarts(
        lambda x_pos: PersistentChains(jnp.zeros_like(x_pos), jnp.zeros((), bool)),
        draw,
        lambda memory, x_neg: PersistentChains(x_neg, jnp.ones((), bool)),
    )
