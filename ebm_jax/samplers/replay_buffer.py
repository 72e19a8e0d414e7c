"""Replay buffer of persistent chains: pure functions on a state that shards over devices.

Du and Mordatch (2019) start 95 % of the chains of a training step from where earlier chains ended,
and 5 % afresh. A buffer consists of `num_shards` rings that never exchange entries: with a batch of
B chains, chains 0 to B / num_shards - 1 read and write the first ring, and so on. The state's
leading axis is the shard's, so that a device may hold any number of them,

    buffer = replay_buffer(10_000, storage="uint8", num_shards=8)
    state = buffer.init(example_batch)
    per_device = jax.tree.map(lambda a: a.reshape(num_devices, -1, *a.shape[1:]), state)   # pmap

and the chains are the same on 1, 2, 4 or 8 devices.
"""

import functools
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ebm_jax.samplers import random
from ebm_jax.samplers._numbering import chain_indices
from ebm_jax.samplers._trees import rows
from ebm_jax.samplers.run import as_index


class ReplayState(NamedTuple):
    """Contents of a buffer; arrays alone, so that it can be saved, donated and sharded as it is.

    Attributes:
        storage: coded entries, [shards, slots, ...].
        position: the slot that the next push begins at, int32 [shards].
        size: number of slots in use, from the first one on, int32 [shards].
    """

    storage: Array
    position: Array
    size: Array


class ReplayInit(Protocol):
    """The first function of a buffer."""

    def __call__(self, example_batch: Array | jax.ShapeDtypeStruct, /) -> ReplayState:
        """An empty buffer for entries shaped and typed as those of [batch, ...]."""
        ...


class ReplayDraw(Protocol):
    """The second function of a buffer."""

    def __call__(
        self, rng_key: Array, state: ReplayState, fresh: Array, /, *, first_chain: Any = None
    ) -> tuple[Array, Array]:
        """Initial positions of chains.

        Args:
            rng_key: one key.
            state: the buffer.
            fresh: starts of the chains that do not replay, [batch, ...].
            first_chain: index of the first chain, by default as in `run_chain`.

        Returns:
            (x, is_replayed): the starts to use, [batch, ...], and bool [batch].
        """
        ...


class ReplayPush(Protocol):
    """The third function of a buffer."""

    def __call__(self, state: ReplayState, x: Array, /) -> ReplayState:
        """The buffer with x [batch, ...], finite, over its oldest entries."""
        ...


class ReplayBuffer(NamedTuple):
    """Three pure functions.

    Attributes:
        init: `init(example_batch) -> ReplayState`, empty; example_batch [batch, ...] gives the
            shape and type of an entry (a jax.ShapeDtypeStruct will do).
        draw: `draw(rng_key, state, fresh, *, first_chain=None) -> (x, is_replayed)`; fresh
            [batch, ...] are the starts of chains that do not replay, x [batch, ...] the starts
            to use, is_replayed bool [batch].
        push: `push(state, x) -> ReplayState`, x [batch, ...] finite, over the oldest entries.
    """

    init: ReplayInit
    draw: ReplayDraw
    push: ReplayPush


class Encode(Protocol):
    """The first half of a codec."""

    def __call__(self, x: Array, /) -> Array:
        """Codes of x, shaped as x."""
        ...


class Decode(Protocol):
    """The second half of a codec."""

    def __call__(self, code: Array, uniform: Array | None, /) -> Array:
        """Entries for codes, with uniform numbers in [0, 1) of the same shape if it needs them."""
        ...


class ReplayCodec(NamedTuple):
    """A storage format of entries.

    Attributes:
        dtype: type of a code, or None for that of the entries.
        encode: `encode(x) -> code`, shaped as x.
        decode: `decode(code, uniform) -> x` with uniform in [0, 1), shaped as code.
    """

    dtype: np.dtype[Any] | None
    encode: Encode
    decode: Decode


def replay_codec(storage: str, *, low: float = 0.0, high: float = 1.0) -> ReplayCodec:
    """The storage format of a `replay_buffer`, by name.

    With `u = clip((x - low) / (high - low), 0, 1)`:
    "float": x itself; `low` and `high` are not used.
    "uint8": code `min(floor(256 u), 255)`, read back as `u = (code + U) / 256`, U uniform: an entry
        keeps its mean over any number of passes, and is at most 1/256 off.
    "igebm_uint8": code `floor(255 u)`, read back in the same way, as in the code published with the
        IGEBM paper: each pass takes about `u / 256` off, so that images darken while they
        are in the buffer.

    Args:
        storage: one of the three names.
        low: smallest value that an entry can have.
        high: largest value.

    Raises ValueError for another name, and for `low >= high`.
    """
    if storage == "float":
        return ReplayCodec(None, lambda x: x, lambda code, uniform: code)
    if storage not in ("uint8", "igebm_uint8"):
        raise ValueError(f"expected storage 'float', 'uint8' or 'igebm_uint8', got {storage!r}")
    if not low < high:
        raise ValueError(f"expected low below high, the data's box, got low={low}, high={high}")
    num_codes = 256 if storage == "uint8" else 255
    return ReplayCodec(
        jnp.dtype(jnp.uint8),
        functools.partial(_encode, num_codes=num_codes, low=low, high=high),
        functools.partial(_decode, low=low, high=high),
    )


def _encode(x: Array, *, num_codes: int, low: float, high: float) -> Array:
    unit = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return jnp.minimum(jnp.floor(num_codes * unit), 255).astype(jnp.uint8)


def _decode(code: Array, uniform: Array | None, *, low: float, high: float) -> Array:
    assert uniform is not None
    return low + (high - low) * ((code.astype(uniform.dtype) + uniform) / 256)


def replay_buffer(
    capacity: int,
    *,
    storage: str = "float",
    low: float = 0.0,
    high: float = 1.0,
    replay_probability: float = 0.95,
    min_size: int = 1,
    num_shards: int = 1,
    overshoot: bool = False,
) -> ReplayBuffer:
    """A first-in first-out buffer of chains' ends, from which later chains start.

    Each chain starts from an entry of its shard with `replay_probability` (drawn with replacement,
    uniformly over what the shard holds), else from its fresh start. What chain i draws is a
    function of the key, i and the buffer alone.

    Args:
        capacity: number of entries of all shards together; at least the batch.
        storage: "float", "uint8" or "igebm_uint8", see `replay_codec`.
        low: smallest value of the entries' box (uint8 storage).
        high: largest value of the box.
        replay_probability: share of chains that replay; the paper's is .95.
        min_size: number of entries, of all shards together, below which all chains start afresh.
            The published code replays from its third step on: `min_size = 2 * batch`.
        num_shards: number of rings that stay apart; a multiple of the number of devices. It
            divides the capacity and every batch.
        overshoot: reproduce the published code's first fill: the push that first reaches past the
            end is stored whole behind the end, and the surplus is cut off, with what it overwrote
            in a ring still in place, when a later push next reaches the end. False is a plain ring.
            The two hold the same once the ring has been written through for the second time.

    Returns:
        A ReplayBuffer of (init, draw, push).

    Raises ValueError, here or at the call, for a capacity below 1 or smaller than the batch, a
    probability outside [0, 1], shards that do not divide the capacity or the batch, and entries of
    another shape.
    """
    if capacity < 1 or num_shards < 1 or capacity % num_shards:
        raise ValueError(
            f"expected capacity to be a positive multiple of num_shards={num_shards}, got "
            f"{capacity}"
        )
    if not 0.0 <= replay_probability <= 1.0:
        raise ValueError(f"expected replay_probability between 0 and 1, got {replay_probability}")
    codec = replay_codec(storage, low=low, high=high)
    ring = capacity // num_shards
    return ReplayBuffer(
        init=functools.partial(
            _init, capacity=capacity, num_shards=num_shards, overshoot=overshoot, codec=codec
        ),
        draw=functools.partial(
            _draw,
            replay_probability=replay_probability,
            min_size=-(-min_size // num_shards),
            codec=codec,
        ),
        push=functools.partial(_push, ring=ring, overshoot=overshoot, codec=codec),
    )


def _init(
    example_batch: Array | jax.ShapeDtypeStruct,
    *,
    capacity: int,
    num_shards: int,
    overshoot: bool,
    codec: ReplayCodec,
) -> ReplayState:
    batch, *shape = example_batch.shape
    if capacity < batch:
        raise ValueError(f"expected a capacity of at least the batch, {batch}, got {capacity}")
    if batch % num_shards:
        raise ValueError(f"expected a batch that num_shards={num_shards} divides, got {batch}")
    slots = capacity // num_shards + (batch // num_shards - 1 if overshoot else 0)
    storage = jnp.zeros((num_shards, slots, *shape), codec.dtype or example_batch.dtype)
    # Two arrays of their own, as one buffer cannot be donated twice.
    position, size = (jnp.zeros(num_shards, jnp.int32) for _ in range(2))
    return ReplayState(storage, position, size)


def _by_shard(x: Array, state: ReplayState) -> Array:
    """x [batch, ...] as [shards, batch / shards, ...]; refuses what does not fit the buffer."""
    num_shards = state.storage.shape[0]
    if x.shape[1:] != state.storage.shape[2:] or x.shape[0] % num_shards:
        raise ValueError(
            f"expected entries {state.storage.shape[2:]} in a batch that {num_shards} shards "
            f"divide, got shape {x.shape}"
        )
    return x.reshape(num_shards, -1, *x.shape[1:])


def _draw(
    rng_key: Array,
    state: ReplayState,
    fresh: Array,
    *,
    first_chain: Any = None,
    replay_probability: float,
    min_size: int,
    codec: ReplayCodec,
) -> tuple[Array, Array]:
    grouped = _by_shard(fresh, state)
    num_shards, per_shard = grouped.shape[:2]
    size = jnp.repeat(state.size, per_shard)
    first = as_index(first_chain)
    chain = jnp.arange(fresh.shape[0])
    chain = chain_indices(fresh, fresh.shape[0]) if first is None else first + chain
    num_codes = 0 if codec.dtype is None else math.prod(fresh.shape[1:])
    uniform = _uniform(rng_key, chain, 2 + num_codes)
    coin, where, for_codes = uniform[:, 0], uniform[:, 1], uniform[:, 2:]
    slot = jnp.minimum((where * size).astype(jnp.int32), size - 1)

    def pick(entries: Array, slot: Array) -> Array:
        return entries[slot]

    code = jax.vmap(pick)(state.storage, slot.reshape(num_shards, per_shard)).reshape(fresh.shape)
    replayed = codec.decode(code, for_codes.reshape(fresh.shape) if num_codes else None)
    is_replayed = (coin < replay_probability) & (size >= max(min_size, 1))
    return jnp.where(rows(is_replayed, fresh), replayed.astype(fresh.dtype), fresh), is_replayed


def _uniform(rng_key: Array, chain: Array, count: int) -> Array:
    """Uniform numbers in [0, 1) by key, chain and entry alone, float32 [chains, count]."""
    entry = jnp.arange(count, dtype=jnp.uint32)[None, :]
    counter = chain.astype(jnp.uint32)[:, None]
    words, _ = random.threefry2x32(*random.key_words(rng_key), counter, entry, rounds=20)
    return (words >> 8).astype(jnp.float32) * 2.0**-24


def _push(
    state: ReplayState, x: Array, *, ring: int, overshoot: bool, codec: ReplayCodec
) -> ReplayState:
    entries = codec.encode(_by_shard(x, state)).astype(state.storage.dtype)
    batch = entries.shape[1]
    if batch > ring:
        raise ValueError(
            f"expected no more entries than a ring of the buffer holds, {ring}, got {batch}"
        )
    end = state.position + batch
    slots = state.position[:, None] + jnp.arange(batch)
    if overshoot:
        is_filling = state.position >= state.size
        slots = jnp.where(is_filling[:, None], slots, slots % ring)
        size = jnp.where(is_filling, end, jnp.where(end >= ring, ring, state.size))
    else:
        slots = slots % ring
        size = jnp.minimum(state.size + batch, ring)

    def written(old: Array, slots: Array, new: Array) -> Array:
        return old.at[slots].set(new)

    storage = jax.vmap(written)(state.storage, slots, entries)
    return ReplayState(storage, end % ring, size)
