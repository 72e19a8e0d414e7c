"""Random numbers for all chains at once, indexed by (key, chain, entry) alone.

`normal` and `uniform` take one key and the chains' indices, so that example i of a batch has the
same numbers whatever the batch or the device that it is in:

    noise = samplers.random.normal(rng_key, first_index + jnp.arange(len(x)), x)

With one key per step, entry j of chain i is the first word of Threefry-2x32 with 13 rounds (Salmon
et al., "Parallel random numbers: as easy as 1, 2, 3", 2011: passes BigCrush) keyed by the step's
key at the counter (i, j). Neither the number of chains nor the number of devices enters.

The second word is left unused on purpose: XLA evaluates each word in the loop that uses it, so on
a CPU using both costs two hashes as well, plus the shuffle of the words into place.
"""

import functools
import math
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ebm_jax.samplers._trees import AnyArray, PyTree, rows, wide_dtype

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_KEY_ROUNDS, _DRAW_ROUNDS = 20, 13

# log(1 + m) / m for sqrt(1/2) <= 1 + m <= sqrt(2), lowest power first; error of the log 3e-8.
_LOG1P = (
    0.999999814, -0.500006674, 0.333361819, -0.249593435,
    0.198730484, -0.173334709, 0.164199769, -0.10102204,
)  # fmt: skip
# sqrt(2) erfinv(x) / x in t = -log(1 - x^2) / 8 - 1, -1 <= t <= 1; relative error 4e-7.
_NORMAL = (
    3.76384359, 1.99523956, -0.457668272, 0.178277631, -0.049861571,
    -0.0266776206, 0.0488950106, -0.046657117, 0.0772952167, -0.0586688569,
    -0.0463488778, 0.0632347701, 0.00563781282, -0.0162691005,
)  # fmt: skip


class Blend(NamedTuple, Generic[ArrayT]):
    """Chains whose noise lies between that of two others; takes the place of `State.chain`.

    The draws are `first_weight n_first + second_weight n_second`. With weights on the unit circle
    they are standard normal again, so that an unadjusted kernel moves such a chain as any other.

    Attributes:
        first, second: global indices of the two chains, int32 [chains].
        first_weight, second_weight: float32 [chains]. 1 and 0 give exactly the first's draws.
    """

    first: ArrayT
    second: ArrayT
    first_weight: ArrayT
    second_weight: ArrayT


# Compiled functions within compiled ones: a program traces their hundred operations once and
# calls them, and XLA fuses them with what uses the numbers all the same.
@functools.partial(jax.jit, static_argnames="rounds")
def threefry2x32(k0: Any, k1: Any, c0: Any, c1: Any, rounds: int) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32: two words for the key (k0, k1) at the counter (c0, c1), all uint32.

    Arguments broadcast. With 20 rounds the values equal `jax.extend.random.threefry_2x32`; written
    as plain arithmetic, so that XLA fuses it with what uses the words.
    """
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    a, b = c0 + keys[0], c1 + keys[1]
    for n in range(rounds):
        r = _ROTATIONS[n % 8]
        a = a + b
        b = a ^ ((b << np.uint32(r)) | (b >> np.uint32(32 - r)))
        if n % 4 == 3:
            group = n // 4 + 1
            a = a + keys[group % 3]
            b = b + keys[(group + 1) % 3] + np.uint32(group)
    return a, b


def _is_typed(rng_key: jax.Array) -> bool:
    return jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)


def key_words(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two uint32 words of one key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`).

    A key of four words (the `rbg` generators) is hashed to two. Raises ValueError for anything
    that is not one key.
    """
    data = jax.random.key_data(rng_key) if _is_typed(rng_key) else rng_key
    if data.dtype != jnp.uint32 or data.shape not in ((2,), (4,)):
        raise ValueError(
            f"expected rng_key to be one key, jax.random.key(seed), got shape {rng_key.shape} "
            f"of type {rng_key.dtype}"
        )
    if data.shape == (4,):
        return threefry2x32(*data, rounds=_KEY_ROUNDS)
    return data[0], data[1]


def fold_in(rng_key: jax.Array, n: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in(rng_key, n)`: the same values, cheaper inside a loop on a CPU."""
    data = jax.random.key_data(rng_key) if _is_typed(rng_key) else rng_key
    if data.shape != (2,):
        return jax.random.fold_in(rng_key, n)
    n = jnp.asarray(n).astype(jnp.uint32)
    words = jnp.stack(threefry2x32(data[0], data[1], jnp.zeros_like(n), n, _KEY_ROUNDS))
    return jax.random.wrap_key_data(words, impl="threefry2x32") if _is_typed(rng_key) else words


def _words(rng_key: jax.Array, chain: AnyArray, start: int, count: int) -> jax.Array:
    """Entries `start` to `start + count` of each chain, uint32 [chains, count]."""
    entry = np.arange(start, start + count, dtype=np.uint32)[None, :]
    k0, k1 = key_words(rng_key)
    return threefry2x32(k0, k1, chain.astype(jnp.uint32)[:, None], entry, _DRAW_ROUNDS)[0]


def _polynomial(coefficients: tuple[float, ...], t: jax.Array) -> jax.Array:
    value: Any = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = value * t + c
    return value


def _log(y: jax.Array) -> jax.Array:
    """Natural logarithm of positive normal float32 `y`, absolute error 1e-7 times 1 + |log y|."""
    bits = jax.lax.bitcast_convert_type(y, jnp.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> 23  # y / 2^exponent lies in [sqrt(1/2), sqrt(2))
    m = jax.lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    return m * _polynomial(_LOG1P, m) + exponent.astype(jnp.float32) * math.log(2)


@functools.partial(jax.jit, static_argnames="dtype")
def to_normal(words: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Standard normals from uniform words: the normal quantile of the middle of the word's cell.

    float32 (and shorter types, rounded from it) uses the upper 24 bits and reaches 5.4 standard
    deviations, with a relative error of 1e-6; float64 uses all 32 and reaches 6.3.
    """
    signed = jax.lax.bitcast_convert_type(words, jnp.int32)
    if dtype == jnp.float64:
        return np.sqrt(2.0) * jax.lax.erf_inv((signed.astype(dtype) + 0.5) * 2.0**-31)
    x = ((signed >> 8).astype(jnp.float32) + 0.5) * 2.0**-23
    t = _log((1 - x) * (1 + x)) * (-1 / 8) - 1
    return (x * _polynomial(_NORMAL, t)).astype(dtype)


def _num_entries(like: PyTree) -> int:
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(like))


def normal(rng_key: jax.Array, chain: AnyArray | Blend[jax.Array], like: PyTree) -> PyTree:
    """Standard normal noise, indexed by chain.

    Args:
        rng_key: one key, typed or raw.
        chain: index of each chain, int [chains], or a `Blend`.
        like: array [chains, ...] or a pytree of such, whose shapes and types the noise takes.

    Returns:
        Noise shaped as `like`. Entry j of chain i, counted through all leaves, is a function of
        (key, chain[i], j).
    """
    if isinstance(chain, Blend):
        return jax.tree.map(
            lambda leaf, a, b: (
                rows(chain.first_weight.astype(leaf.dtype), leaf) * a
                + rows(chain.second_weight.astype(leaf.dtype), leaf) * b
            ),
            like,
            normal(rng_key, chain.first, like),
            normal(rng_key, chain.second, like),
        )
    leaves, structure = jax.tree.flatten(like)
    noise: list[jax.Array] = []
    start = 0
    for leaf in leaves:
        size = _num_entries(leaf)
        words = _words(rng_key, chain, start, size)
        noise.append(to_normal(words, leaf.dtype).reshape(leaf.shape))
        start += size
    return structure.unflatten(noise)


def uniform(
    rng_key: jax.Array,
    chain: AnyArray | Blend[jax.Array],
    like: PyTree,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """A uniform number in (0, 1) per chain, independent of `normal` for the same key and `like`.

    It is the entry that follows those of `like`, so it goes with noise of that shape.

    Args:
        rng_key: one key, typed or raw.
        chain: index of each chain, int [chains].
        like: what `normal` was given with this key; `()` if it was not called.
        dtype: float32 or float64; shorter types give float32.

    Returns:
        [chains].

    Raises TypeError for a `Blend`: tests between those of two chains would be no continuous path.
    """
    if isinstance(chain, Blend):
        raise TypeError("expected an unadjusted kernel for blended chains, got a Metropolis test")
    words = _words(rng_key, chain, _num_entries(like), 1)[:, 0]
    dtype = wide_dtype(dtype)
    bits = 32 if dtype == jnp.float64 else 23  # with 24 the largest would round to 1
    return ((words >> np.uint32(32 - bits)).astype(dtype) + 0.5) * 2.0**-bits
