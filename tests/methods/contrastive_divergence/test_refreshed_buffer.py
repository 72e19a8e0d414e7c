"""The refreshed buffer: its counts, its law on a known energy, labels, and who writes last."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import PerClass, Quadratic

from ebm_jax.methods import ContrastiveDivergence
from ebm_jax.methods.contrastive_divergence import ContrastiveDivergenceSampler
from ebm_jax.methods.contrastive_divergence.chain_init import box_noise
from ebm_jax.methods.contrastive_divergence.labels import known
from ebm_jax.methods.contrastive_divergence.refreshed_buffer import Refresh, refreshed_buffer
from ebm_jax.networks.ensemble import Ensemble

KEY = jax.random.key(3)
PUBLISHED = Refresh()


def noise(rng_key, index):
    """Starts at 0, so that moves by 1 count the rounds since."""
    return jnp.zeros((len(index), 2))


def test_published_numbers():
    """2,048 steps per image are asked for; 1 - (1 - 1/1000)^512 of the entries keep a round's."""
    moved = []

    def move(number, x, label):
        moved.append(len(x))
        return x + 1.0

    calm = PUBLISHED._replace(noise_share=0.0, label_share=0.0)
    x, _ = refreshed_buffer(KEY, move, noise, np.zeros(1_000, int), 1, calm)
    assert sum(moved) * 20 / 1_000 == PUBLISHED.steps_per_entry(20) == 2_048
    share = 1 - (1 - 1 / 1_000) ** 512
    # an entry's rounds are binomial, 200 of `share`; less than 2 % of all have negative covariance
    error = np.sqrt(200 * share * (1 - share) / 1_000)
    assert x[:, 0].mean() == pytest.approx(200 * share, abs=4 * error)
    assert 20 * x[:, 0].mean() < 0.8 * 2_048


def test_blocks_share_a_program():
    """What is drawn is traced once, whatever the round and the key."""
    traced = []

    def counted(rng_key, index):
        traced.append(isinstance(rng_key, jax.core.Tracer))
        return noise(rng_key, index)

    small = Refresh(6, 3, 4)
    for key in jax.random.split(KEY, 3):
        refreshed_buffer(key, lambda n, x, label: x, counted, np.zeros(6, int), 1, small)
    assert traced.count(True) == 1
    uniform = [box_noise("uniform", (2,), 0.0, 1.0) for _ in range(2)]
    assert uniform[0] is uniform[1]


def test_noise_and_labels_are_off_in_the_last_rounds():
    """With all of those drawn refreshed, and so many labels that none is drawn twice."""
    every = Refresh(50, 12, 200, noise_share=1.0, label_share=1.0, num_last=5)
    rounds = []

    def move(number, x, label):
        rounds.append((x[:, 0].copy(), set(label.tolist())))
        return x + 1.0

    x, label = refreshed_buffer(KEY, move, noise, np.arange(50), 2**30, every)
    assert [np.all(start == 0) for start, _ in rounds] == [True] * 7 + [False] * 5
    so_far = set(range(50))
    for number, (_, given) in enumerate(rounds):
        assert (given <= so_far) == (number >= 7)
        so_far |= given
    assert x.max() == 1 + 5
    assert set(label.tolist()) <= so_far


def test_shares_of_noise_and_of_labels():
    """Of one round of 100,000: 1 % are noise that was not there before, 10 % have new labels."""
    once, found = Refresh(1_000, 1, 100_000, 0.01, 0.1, 0), {}
    start = lambda rng_key, index: jax.random.uniform(rng_key, (len(index), 1))  # noqa: E731

    def move(number, x, label):
        there = np.asarray(start(jax.random.split(KEY)[0], np.arange(1_000)))
        found.update(noise=~np.isin(x[:, 0], there), label=label != -1)
        return x

    refreshed_buffer(KEY, move, start, np.full(1_000, -1), 2**30, once)
    for name, share in (("noise", 0.01), ("label", 0.1)):
        error = np.sqrt(share * (1 - share) / 100_000)
        assert found[name].mean() == pytest.approx(share, abs=4 * error)
    both = (found["noise"] & found["label"]).mean()
    assert both == pytest.approx(0.001, abs=4 * np.sqrt(0.001 / 100_000))  # independent


def test_the_later_of_two_is_kept():
    """With one entry, every round keeps the last of its draws; each has a label of all."""
    one, seen = Refresh(1, 3, 40, 0.0, 1.0, 0), []

    def move(number, x, label):
        seen.append(label.copy())
        return 100 * number + np.arange(40.0)[:, None]

    x, label = refreshed_buffer(KEY, move, noise, np.zeros(1, int), 3, one)
    np.testing.assert_array_equal(x, [[239.0, 239.0]])
    assert label == seen[-1][-1]
    assert [set(of_round) for of_round in seen] == [{0, 1, 2}] * 3


THETA, STEP, NOISE, TEMPERATURE = 0.8, 0.3, 0.4, 1.6


def of_known_law(**values):
    """IGEBM's chains on E = theta x^2 / 2: x' = (1 - h theta) (x + s xi), far from its box."""
    sampler = ContrastiveDivergenceSampler(chains="refreshed_buffer", **values)
    return ContrastiveDivergence(
        Quadratic(), low=-50.0, high=50.0, num_steps=5, step_size=STEP, noise_std=NOISE / 100,
        max_grad=0.0, temperature=TEMPERATURE, sampler=sampler,
    )  # fmt: skip


def block(method, params, key, number=0):
    moved = jax.jit(method.move_entries)
    return method.sample_block(
        params, jax.random.fold_in(key, 0), number,
        lambda p, rounds, x, index, label: np.asarray(
            moved(p, jax.random.fold_in(key, 1), rounds, x, index, label)
        ),
    )  # fmt: skip


def test_law_of_a_known_energy():
    """After 40 rounds of 5 steps: mean 0, the variance of the recursion; chains forget in 10."""
    method = of_known_law(
        buffer_size=2_000, buffer_rounds=40, buffer_drawn=1_000, buffer_noise=0.01
    )
    params = {"theta": jnp.asarray(THETA / TEMPERATURE)}
    x = np.concatenate([block(method, params, KEY, number) for number in range(2)])
    assert len(np.unique(x)) == len(x)
    decay = 1 - STEP * THETA
    variance = (decay * NOISE) ** 2 / (1 - decay**2)
    # entries that were replaced by noise of variance 100^2 / 12 and not yet forgotten it
    assert decay ** (2 * 5 * 10) * 100**2 / 12 < 1e-7
    late = np.abs(x) > 6 * np.sqrt(variance)
    assert late.mean() < 0.02  # drawn but a few times in the last ten rounds
    kept = x[~late]
    assert kept.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / len(kept)))
    assert kept.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / len(kept)) + 0.02)


def test_labels_go_in_turn_and_rounds_take_checkpoints_in_turn():
    """Without noise: an entry is its start times the factors of the rounds that it moved in."""
    method = of_known_law(
        buffer_size=1,
        buffer_rounds=3,
        buffer_drawn=1,
        buffer_noise=0.0,
        buffer_labels=0.0,
        buffer_num_steps=4,
    )
    method = ContrastiveDivergence(
        Ensemble(Quadratic(), 2, "cycle", temperature=2.0), low=-50.0, high=50.0, num_steps=5,
        step_size=STEP, noise_std=0.0, max_grad=0.0, temperature=TEMPERATURE,
        sampler=method.sampler,
    )  # fmt: skip
    thetas = (0.8, 0.2)
    params = {f"member_{i}": {"theta": jnp.asarray(theta)} for i, theta in enumerate(thetas)}
    start = method._noise()(
        jax.random.split(jax.random.fold_in(jax.random.fold_in(KEY, 0), 6))[0], jnp.arange(1)
    )
    factors = [(1 - STEP * TEMPERATURE * theta / 2) ** 4 for theta in thetas]
    expected = np.asarray(start) * factors[0] ** 2 * factors[1]
    np.testing.assert_allclose(block(method, params, KEY, 6), expected, rtol=1e-5)
    short = of_known_law(buffer_size=1, buffer_rounds=1, buffer_drawn=1).sampler
    with pytest.raises(ValueError, match="buffer_rounds: expected at least 2, a round for each"):
        block(dataclasses.replace(method, sampler=short), params, KEY)
    just = dataclasses.replace(method, sampler=dataclasses.replace(method.sampler, buffer_rounds=2))
    expected = np.asarray(start) * factors[0] * factors[1]
    np.testing.assert_allclose(block(just, params, KEY, 6), expected, rtol=1e-5)


def test_entries_of_a_block_have_the_labels_of_their_samples():
    """In turn, by the sample's number in the whole set: entry i of block n is n size + i."""
    sampler = ContrastiveDivergenceSampler(
        chains="refreshed_buffer", buffer_size=5, buffer_rounds=1, buffer_drawn=60,
        buffer_noise=0.0, buffer_labels=0.0,
    )  # fmt: skip
    method = ContrastiveDivergence(PerClass(), sampler=sampler)
    assert (method.block_size, method.num_moved) == (5, 60)
    assert ContrastiveDivergence(PerClass()).block_size == 0
    np.testing.assert_array_equal(known(Quadratic(), None), [0])

    def move(params, rounds, x, index, label):
        np.testing.assert_array_equal(rounds, np.zeros(60))
        np.testing.assert_array_equal(index, np.arange(60))
        assert {array.dtype for array in (rounds, index, label)} == {np.dtype(np.int32)}
        return label[:, None].astype(np.float32)

    done = []
    x = method.sample_block({}, KEY, 2, move, done.append)
    np.testing.assert_array_equal(x[:, 0], [1, 2, 0, 1, 2])
    assert done == [1]
