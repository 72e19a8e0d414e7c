"""Random numbers for all chains at once, a function of (key, chain, dimension) alone.

With one key per step, entry j of chain i is word j mod 2 of Threefry-2x32 (Salmon et al. 2011)
keyed by the step's key, at counter (i, j // 2). Neither the number of chains nor the number of
devices enters.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers.positions import PyTree

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(
    k0: jax.Array, k1: jax.Array, c0: jax.Array, c1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds: two words for the key (k0, k1) at the counter (c0, c1).

    All uint32, broadcast against each other. The values equal `jax.extend.random.threefry_2x32`;
    written as plain arithmetic, so that XLA fuses it with what uses the words.
    """
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    a, b = c0 + keys[0], c1 + keys[1]
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(r)) | (b >> np.uint32(32 - r)))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def key_words(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two uint32 words of one key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`).

    A key of four words (the `rbg` generators) is hashed to two. Raises ValueError for anything
    that is not one key.
    """
    data = rng_key
    if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(rng_key)
    if data.dtype != jnp.uint32 or data.shape not in ((2,), (4,)):
        raise ValueError(
            f"rng_key has shape {rng_key.shape} and type {rng_key.dtype}: give one key, "
            "jax.random.key(seed)"
        )
    if data.shape == (4,):
        return threefry2x32(data[0], data[1], data[2], data[3])
    return data[0], data[1]


def fold_in(rng_key: jax.Array, n: jax.Array) -> jax.Array:
    """`jax.random.fold_in(rng_key, n)`, the same values, cheaper inside a loop on a CPU."""
    typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(rng_key) if typed else rng_key
    if data.shape != (2,):
        return jax.random.fold_in(rng_key, n)
    n = jnp.asarray(n).astype(jnp.uint32)
    words = jnp.stack(threefry2x32(data[0], data[1], jnp.zeros_like(n), n))
    return jax.random.wrap_key_data(words) if typed else words


def _words(rng_key, chain, start, count):
    """Words number `start` to `start + count` of each chain, uint32 [chains, count]."""
    k0, k1 = key_words(rng_key)
    first = start // 2
    pairs = np.arange(first, (start + count + 1) // 2, dtype=np.uint32)
    both = threefry2x32(k0, k1, chain.astype(jnp.uint32)[:, None], pairs[None, :])
    words = jnp.stack(both, axis=-1).reshape(chain.shape[0], -1)
    return words[:, start - 2 * first : start - 2 * first + count]


def _to_normal(words, dtype):
    """Standard normals: inverse of the normal distribution at (word + 1/2) / 2^32."""
    work = jnp.float64 if dtype == jnp.float64 else jnp.float32
    bits = 32 if work == jnp.float64 else 23
    lattice = (words >> np.uint32(32 - bits)).astype(work)
    symmetric = (lattice + 0.5) * (2.0 ** (1 - bits)) - 1.0
    return (np.sqrt(2.0) * jax.lax.erf_inv(symmetric)).astype(dtype)


def normal(rng_key: jax.Array, chain: jax.Array, like: PyTree) -> PyTree:
    """Standard normal noise shaped as `like` ([chains, ...] or a pytree of such).

    Entry j of chain i (entries counted through all leaves) is a function of (key, chain[i], j).
    """
    leaves, structure = jax.tree.flatten(like)
    noise, start = [], 0
    for leaf in leaves:
        size = int(np.prod(leaf.shape[1:]))
        words = _words(rng_key, chain, start, size)
        noise.append(_to_normal(words, leaf.dtype).reshape(leaf.shape))
        start += size
    return structure.unflatten(noise)
