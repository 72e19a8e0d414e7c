"""The sampler's own random numbers: the published hash, exact normals, nothing but (key, i, j)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats
from scipy.special import ndtri

from ebm_jax.samplers import random


def test_twenty_rounds_are_jax_threefry():
    key = jnp.array([0x12345678, 0x9ABCDEF0], jnp.uint32)
    counters = jnp.arange(16, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    ours = random.threefry2x32(key[0], key[1], counters[:8], counters[8:], 20)
    np.testing.assert_array_equal(jnp.concatenate(ours), threefry_2x32(key, counters))


def test_thirteen_rounds_are_the_published_known_answers():
    # Random123's known-answer file, threefry2x32 with 13 rounds.
    cases = [
        ((0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0xFD36D048, 0x2D17272C)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xBA3E4725, 0xF27D669E)),
    ]
    for key, counter, expected in cases:
        words = [np.uint32(w) for w in (*key, *counter)]
        got = random.threefry2x32(*[jnp.asarray(w) for w in words], 13)
        assert tuple(int(w) for w in got) == expected


def test_draws_are_the_first_word_at_the_counter_of_chain_and_entry():
    """Known answer at (0, 0) with the key (0, 0); else what the hash gives at (i, j)."""
    raw = jnp.zeros(2, jnp.uint32)
    u = random.uniform(raw, jnp.zeros(1, jnp.int32), ())
    np.testing.assert_array_equal(u, [((0x9D1C5EC6 >> 9) + 0.5) * 2.0**-23])
    with jax.enable_x64(True):
        u = random.uniform(raw, jnp.zeros(1, jnp.int32), (), jnp.float64)
        np.testing.assert_array_equal(u, [(0x9D1C5EC6 + 0.5) * 2.0**-32])
    key, chain = jnp.array([7, 9], jnp.uint32), jnp.array([5, 2**31 - 1])
    like = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 1, 1))}
    entry = np.uint32([0, 1, 2, 3])
    words = random.threefry2x32(*key, chain.astype(jnp.uint32)[:, None], entry, 13)
    normal = random.normal(key, chain, like)
    normal = np.concatenate([normal["a"], normal["b"][:, 0]], axis=1)
    np.testing.assert_array_equal(normal, random.to_normal(words[0][:, :3]))
    wanted = (np.asarray(words[0])[:, 3] // 2**9 + 0.5) / 2**23
    np.testing.assert_array_equal(random.uniform(key, chain, like), wanted)


def test_fold_in_is_jax_fold_in_for_every_kind_of_key():
    for key in (jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")):
        ours, theirs = random.fold_in(key, 41), jax.random.fold_in(key, 41)
        assert ours.dtype == theirs.dtype
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)
    with jax.default_prng_impl("rbg"):  # keys stay of their kind
        key = jax.random.key(3, impl="threefry2x32")
        assert random.fold_in(key, 41) == jax.random.fold_in(key, 41)


def test_words_become_exact_normal_quantiles():
    ends = np.arange(4000)
    words = np.concatenate([np.arange(0, 2**32, 40_009), ends, 2**32 - 1 - ends, 2**31 - ends])
    words = words.astype(np.uint32)
    x = ((words.view(np.int32) >> 8) + 0.5) * 2.0**-23
    exact = np.where(x < 0, ndtri((1 + x) / 2), -ndtri((1 - x) / 2))
    ours = np.asarray(random.to_normal(jnp.asarray(words)), np.float64)
    np.testing.assert_allclose(ours, exact, rtol=2e-6)
    assert 5.3 < np.abs(ours).max() < 5.5


def test_normals_in_float64_and_bfloat16():
    chain = jnp.arange(2000)
    with jax.enable_x64(True):
        wide = random.normal(jax.random.key(0), chain, jnp.zeros((2000, 3), jnp.float64))
        assert wide.dtype == jnp.float64
        wide = np.asarray(wide)
    single = np.asarray(random.normal(jax.random.key(0), chain, jnp.zeros((2000, 3))))
    short = random.normal(jax.random.key(0), chain, jnp.zeros((2000, 3), jnp.bfloat16))
    # The same words, more of their bits.
    np.testing.assert_allclose(stats.norm.cdf(single), stats.norm.cdf(wide), atol=2e-7)
    np.testing.assert_array_equal(short, jnp.asarray(single).astype(jnp.bfloat16))


def test_float32_numbers_are_the_same_where_float64_is_allowed():
    key, chain, like = jax.random.key(4), np.arange(50), np.zeros((50, 3), np.float32)
    wanted = random.normal(key, chain, like), random.uniform(key, chain, like)
    with jax.enable_x64(True):
        found = random.normal(key, chain, like), random.uniform(key, chain, like)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


def test_law_and_independence():
    n, d = 50_000, 4
    like = jnp.zeros((n, d))
    z = np.asarray(random.normal(jax.random.key(5), jnp.arange(n), like))
    u = np.asarray(random.uniform(jax.random.key(5), jnp.arange(n), like))
    next_step = np.asarray(random.normal(jax.random.key(6), jnp.arange(n), like))
    assert stats.kstest(z.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest(u, stats.uniform.cdf).pvalue > 1e-3
    assert 0 < u.min() < u.max() < 1
    chain_before = np.roll(z, 1, axis=0)
    columns = np.concatenate([z, next_step, chain_before, u[:, None]], axis=1)[1:]
    for values in (columns, columns**2):
        correlation = np.corrcoef(values.T) - np.eye(columns.shape[1])
        assert np.abs(correlation).max() < 4.5 / np.sqrt(n)


def test_draws_depend_on_chain_and_entry_alone():
    key = jax.random.key(1)
    tree = {"a": jnp.zeros((10, 3)), "b": jnp.zeros((10, 2, 2))}
    normal = jax.jit(random.normal)
    full = normal(key, jnp.arange(10), tree)
    part = normal(key, jnp.array([7, 2]), jax.tree.map(lambda a: a[:2], tree))
    jax.tree.map(lambda f, p: np.testing.assert_array_equal(f[jnp.array([7, 2])], p), full, part)
    flat = normal(key, jnp.arange(10), jnp.zeros((10, 7)))
    np.testing.assert_array_equal(flat[:, 3:], full["b"].reshape(10, 4))


def test_a_program_calls_what_it_draws_with():
    """The hash's hundred operations are traced once, and not written out at each draw."""

    def draws(key):
        keys = [random.fold_in(key, n) for n in range(5)]
        return [random.normal(k, jnp.arange(3), jnp.zeros((3, 2))) for k in keys]

    equations = jax.make_jaxpr(draws)(jax.random.key(0)).eqns
    assert len(equations) < 5 * 40
    assert sum(e.primitive.name in ("jit", "pjit") for e in equations) >= 5 * 3


def test_raw_and_typed_keys_agree_and_rbg_works():
    like = jnp.zeros((1000, 2))
    typed = random.normal(jax.random.key(9), jnp.arange(1000), like)
    np.testing.assert_array_equal(
        typed, random.normal(jax.random.PRNGKey(9), jnp.arange(1000), like)
    )
    rbg = random.normal(jax.random.key(9, impl="rbg"), jnp.arange(1000), like)
    assert stats.kstest(np.asarray(rbg).ravel(), stats.norm.cdf).pvalue > 1e-3
    assert not np.array_equal(rbg, typed)


@pytest.mark.parametrize("key", [jnp.zeros((3, 2), jnp.uint32), jnp.zeros(2), jnp.uint32(3)])
def test_anything_but_one_key_is_refused(key):
    with pytest.raises(ValueError, match="expected rng_key to be one key"):
        random.normal(key, jnp.arange(2), jnp.zeros((2, 2)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_uniform_numbers_of_half_precision_are_those_of_float32(dtype):
    """In fewer bits some would be 0 or 1, which a Metropolis test takes for certain."""
    key, chain = jax.random.key(3), np.arange(1_000)
    found = random.uniform(key, chain, (), dtype)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, random.uniform(key, chain, ()))
    assert 0 < found.min() < found.max() < 1
