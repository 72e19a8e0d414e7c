"""Where chains start: the buffer and its shards, persistent chains, and blends of fresh starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import PerClass, Quadratic

from ebm_jax import samplers
from ebm_jax.methods import ContrastiveDivergence
from ebm_jax.methods.contrastive_divergence.chain_init import blended_noise, box_noise
from ebm_jax.methods.interpolation import sample_paths
from ebm_jax.samplers import random

KEY = jax.random.key(0)
PARAMS = {"theta": jnp.float32(1.0)}


def quadratic(**settings):
    """Contrastive divergence on E = theta x^2 / 2, its chains hardly moving unless told to."""
    still = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    return ContrastiveDivergence(
        Quadratic(),
        **{
            "make_kernel": still,
            "num_steps": 1,
            "energy_l2": 0.0,
            "buffer_storage": "float",
            "buffer_shards": 1,
        }
        | settings,
    )


def first_memory(method, batch):
    """The state that the first step finds."""
    return method.init(KEY, batch)[1]


def split(tree, num_parts):
    """A tree with leading axes in so many equal parts."""
    return [
        jax.tree.map(lambda leaf, i=i: jnp.split(leaf, num_parts)[i], tree)
        for i in range(num_parts)
    ]


# ---- the replay buffer ----


def test_chains_start_from_the_buffer_and_metrics_are_named_so():
    """A chain that hardly moves ends where it started: what is drawn is what was stored."""
    method = quadratic(buffer_size=2048)
    batch = {"image": jnp.full((512, 1), 0.5)}
    loss = jax.jit(method.loss)
    state, shares, stored = first_memory(method, batch), [], np.zeros(0)
    for step in range(4):
        _, (state, metrics) = loss(PARAMS, state, batch, jax.random.fold_in(KEY, step))
        replayed = metrics["energy_neg_from_buffer"].count
        assert replayed + metrics["energy_neg_from_noise"].count == 512
        shares.append(float(replayed) / 512)
        ends = np.asarray(state.sharded.storage).reshape(-1)[512 * step : 512 * (step + 1)]
        assert np.isin(ends, stored).mean() == pytest.approx(shares[-1], abs=1e-6)
        stored = np.append(stored, ends)
    assert shares[:2] == [0.0, 0.0]  # the published code replays from its third step on
    assert np.mean(shares[2:]) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 1024))
    assert set(metrics) == {"energy_pos", "l2_penalty"} | {
        f"{name}_from_{place}"
        for name in ("energy_neg", "displacement", "grad_norm")
        for place in ("buffer", "noise")
    }


@pytest.mark.parametrize("buffer_size", [16, 24, 31])
def test_a_buffer_smaller_than_two_batches_replays_once_full(buffer_size):
    method = quadratic(buffer_size=buffer_size, buffer_shards=4, replay_probability=1.0)
    batch = {"image": jnp.full((16, 1), 0.5)}
    state, replayed = first_memory(method, batch), []
    loss = jax.jit(method.loss)
    for step in range(4):
        _, (state, metrics) = loss(PARAMS, state, batch, jax.random.fold_in(KEY, step))
        replayed.append(float(metrics["energy_neg_from_buffer"].count))
    steps_to_fill = -(-(buffer_size // 4 * 4) // 16)
    assert replayed == [0.0] * steps_to_fill + [16.0] * (4 - steps_to_fill)
    assert state.sharded.storage.shape == (4, buffer_size // 4, 1)


def test_buffers_that_do_not_fit_the_batch_are_refused():
    batch = {"image": jnp.full((6, 1), 0.5)}
    with pytest.raises(ValueError, match="buffer_size: expected at least the batch, 6, got 5"):
        quadratic(buffer_size=5).init(KEY, batch)
    # What the shards do not divide is left out: of 7 entries in two rings, 6 remain.
    quadratic(buffer_size=7, buffer_shards=2).init(KEY, batch)
    with pytest.raises(ValueError, match="buffer_size: expected at least the batch, 6, got 4"):
        quadratic(buffer_size=5, buffer_shards=2).init(KEY, batch)
    with pytest.raises(ValueError, match="buffer_shards: expected a divisor of the batch 6, got 4"):
        quadratic(buffer_shards=4).init(KEY, batch)


def labeled(**settings):
    """The same on E = (x - y)^2 / 2 of classes 0, 1, 2, with labels in the buffer."""
    still = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    usual = {"energy_l2": 0.0, "buffer_storage": "float", "buffer_shards": 1}
    return ContrastiveDivergence(
        PerClass(),
        **{"make_kernel": still, "num_steps": 1, "buffer_has_labels": True} | usual | settings,
    )


def test_chains_go_on_under_the_labels_of_the_buffer():
    """Examples of class 2 follow on those of class 1: replayed chains are of class 1 still."""
    method, params = labeled(buffer_size=512, replay_probability=0.75), {"offset": jnp.zeros(())}
    loss = jax.jit(method.loss)
    state = first_memory(method, {"image": jnp.full((256, 1), 0.5), "label": jnp.ones(256, int)})
    for step, y in enumerate((1, 1, 2)):
        batch = {"image": jnp.full((256, 1), 0.5), "label": jnp.full(256, y)}
        before = state.sharded
        _, (state, metrics) = loss(params, state, batch, jax.random.fold_in(KEY, step))
    x, label = (np.asarray(b.storage)[0, :256] for b in state.sharded)  # where the third wrote
    replayed = np.isin(x[:, 0], np.asarray(before.x.storage).reshape(-1))
    np.testing.assert_array_equal(label, np.where(replayed, 1, 2))
    assert replayed.mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 256))
    for place, rows, y in (("buffer", replayed, 1), ("noise", ~replayed, 2)):
        energy = metrics[f"energy_neg_from_{place}"]
        assert energy.count == rows.sum()
        assert energy.value() == pytest.approx(np.mean((x[rows, 0] - y) ** 2) / 2, rel=1e-5)


def test_chains_run_and_train_under_the_labels_that_they_have():
    """A step of h = 1 goes to the center of the chain's own class."""
    kernel = functools.partial(samplers.langevin, step_size=1.0, temperature=0.0)
    method = labeled(make_kernel=kernel, buffer_size=32, replay_probability=1.0, high=4.0)
    params, ones = {"offset": jnp.zeros(())}, jnp.ones((16, 1))
    loss, state = (
        jax.jit(method.loss),
        first_memory(method, {"image": ones, "label": jnp.ones(16, int)}),
    )
    for step, y in enumerate((1, 1, 2)):
        batch = {"image": ones, "label": jnp.full(16, y)}
        _, (state, metrics) = loss(params, state, batch, jax.random.fold_in(KEY, step))
        assert metrics["energy_pos"].value() == pytest.approx((1 - y) ** 2 / 2, abs=1e-6)
    np.testing.assert_allclose(state.sharded.x.storage, 1.0, atol=1e-6)
    np.testing.assert_array_equal(state.sharded.label.storage, 1)


@pytest.mark.parametrize(
    ("network", "settings", "lacking"),
    [
        (PerClass(), {"chain_init": "noise"}, "replay buffer"),
        (Quadratic(), {}, "labels"),
    ],
)
def test_labels_of_a_buffer_that_there_cannot_be(network, settings, lacking):
    with pytest.raises(ValueError, match=f"buffer_has_labels: expected False.* no {lacking}"):
        ContrastiveDivergence(network, buffer_has_labels=True, **settings)


# ---- shards ----


@pytest.mark.parametrize("chain_init", ["replay_buffer", "persistent", "labeled"])
def test_losses_are_the_same_however_the_shards_are_held(chain_init):
    """The global batch with all of the memory, and 2 or 8 parts, of one example each."""
    has_labels = chain_init == "labeled"
    make = labeled if has_labels else functools.partial(quadratic, chain_init=chain_init)
    params = {"offset": jnp.float32(1.0)} if has_labels else PARAMS
    method = make(
        num_steps=2,
        make_kernel=functools.partial(samplers.langevin, step_size=0.02),
        energy_l2=0.3,
        buffer_size=48,
        buffer_shards=8,
        buffer_storage="uint8",
        replay_probability=0.8,
    )
    batch = {
        "image": jax.random.uniform(KEY, (8, 1)),
        "index": jnp.arange(8),
        "label": jnp.arange(8) % 3,
    }
    loss_and_grad = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    state = first_memory(method, batch)

    def run(num_holders):
        memories, found = split(state.sharded, num_holders), []
        for step in range(5):
            parts = [
                loss_and_grad(
                    params, state._replace(sharded=memory), part, jax.random.fold_in(KEY, step)
                )
                for memory, part in zip(memories, split(batch, num_holders), strict=True)
            ]
            memories = [new_state.sharded for (_, (new_state, _)), _ in parts]
            replayed = sum(
                mean.count
                for (_, (_, metrics)), _ in parts
                for name, mean in metrics.items()
                if name in ("energy_neg_from_buffer", "energy_neg_from_chain")
            )
            loss, slope = (
                np.mean([values for values in both])
                for both in zip(*((v, *g.values()) for (v, _), g in parts), strict=True)
            )
            found.append((loss, slope, replayed))
        return found, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *memories)

    whole, memory = run(1)
    replayed = [count for *_, count in whole]
    assert replayed[0] == 0
    assert min(replayed[2:]) > 0
    for num_holders in (2, 8):
        parts, joined = run(num_holders)
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6, err_msg=str(num_holders))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), joined, memory
        )


@pytest.mark.parametrize("chain_init", ["replay_buffer", "persistent"])
def test_eight_devices_keep_their_memories_apart(chain_init):
    method = quadratic(chain_init=chain_init, buffer_size=8 * 64, buffer_shards=8)
    batch = {
        "image": jnp.full((8, 16, 1), 0.5),
        "index": jnp.arange(8 * 16).reshape(8, 16),
    }
    whole = first_memory(method, {"image": batch["image"].reshape(-1, 1)})
    state = jax.tree.map(lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), whole)
    loss = jax.pmap(lambda s, b, key: method.loss(PARAMS, s, b, key)[1][0], in_axes=(0, 0, None))
    for step in range(4):
        state = loss(state, batch, jax.random.fold_in(KEY, step))
    stored = jax.tree.leaves(state.sharded)[0].reshape(8, -1)
    assert stored.shape == (8, 64 if chain_init == "replay_buffer" else 16)
    values = [set(np.unique(row)) for row in np.asarray(stored)]
    for i in range(8):
        for j in range(i):
            assert not values[i] & values[j]


# ---- persistent chains ----


def test_persistent_chains_go_on_where_they_ended():
    method = quadratic(
        chain_init="persistent",
        make_kernel=functools.partial(samplers.langevin, step_size=0.5, temperature=0.0),
        num_steps=2,
    )
    batch = {"image": jnp.full((4, 1), 0.5)}
    params = {"theta": jnp.float32(0.2)}  # each step multiplies x by .9
    loss = jax.jit(method.loss)
    _, (first, metrics) = loss(params, first_memory(method, batch), batch, KEY)
    assert metrics["energy_neg_from_noise"].count == 4
    _, (second, metrics) = loss(params, first, batch, KEY)
    assert metrics["energy_neg_from_chain"].count == 4
    np.testing.assert_allclose(second.sharded.x, 0.81 * first.sharded.x, rtol=1e-5)


# ---- fresh starts ----


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_starts_in_a_box_keep_their_distribution_on_a_path(kind):
    low, high = -1.0, 3.0
    paths = sample_paths(5_000, 3)

    def noise(index):
        z = random.normal(KEY, index, jnp.zeros((index.shape[0], 2)))
        if kind == "normal":
            return (low + high) / 2 + (high - low) / 2 * z
        return low + (high - low) * jax.scipy.special.ndtr(z)

    found = jax.jit(lambda: blended_noise(noise, kind, paths, low, high))()
    found = np.asarray(found).reshape(5_000, 3, 2)
    plain = np.asarray(noise(jnp.arange(10_000)))
    np.testing.assert_allclose(found[:, 0], plain[::2], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found[:, 2], plain[1::2], rtol=1e-5, atol=2e-6)
    middle = found[:, 1].ravel()
    variance = (high - low) ** 2 / (12 if kind == "uniform" else 4)
    assert middle.mean() == pytest.approx(1.0, abs=4 * np.sqrt(variance / 10_000))
    assert middle.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / 10_000))
    if kind == "uniform":
        share = np.mean(middle < low + (high - low) / 10)
        assert share == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 10_000))


def test_the_middle_between_the_ends_of_a_box_is_its_center():
    """A normal number that a start at the very end stands for is not infinite."""
    ends, half = jnp.array([[-1.0], [3.0]]), jnp.full(2, np.sqrt(0.5), jnp.float32)
    blend = random.Blend(jnp.array([0, 1]), jnp.array([1, 1]), half, half)
    found = blended_noise(lambda index: ends[index], "uniform", blend, -1.0, 3.0)
    np.testing.assert_allclose(found[0], 1.0, atol=1e-2)
    np.testing.assert_allclose(found[1], 3.0, atol=1e-5)
    np.testing.assert_array_equal(found < 3.0, [[True], [False]])


def test_chains_start_from_the_noise_that_is_asked_for():
    """Normal about the center, of half the width as deviation, and blended so; no walls."""
    still = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    method = ContrastiveDivergence(
        Quadratic(2), low=-2.0, high=6.0, init_noise="normal", num_steps=1, make_kernel=still
    )
    start_key = jax.random.split(KEY)[0]
    z = [jax.random.normal(jax.random.fold_in(start_key, i), (2,)) for i in (3, 8)]
    weights = jnp.array([1, 0, 0.6], jnp.float32), jnp.array([0, 1, 0.8], jnp.float32)
    blends = random.Blend(jnp.array([3, 3, 3]), jnp.array([8, 8, 8]), *weights)
    x = jax.jit(method.sample)(PARAMS, KEY, blends)
    wanted = 2 + 4 * np.stack([*z, 0.6 * z[0] + 0.8 * z[1]])
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-5)


def test_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="init_noise: expected one of uniform, normal, got 'cau"):
        box_noise("cauchy", (1,), 0.0, 1.0)
