"""The replay buffer against the published code's values, a queue, and its promises on devices."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from reference_files import below, load_reference

from ebm_jax.samplers import ReplayBuffer, replay_buffer, replay_codec

KEY = jax.random.key(0)


def published_ring_states():
    """Contents of a buffer of 10 after each of 9 pushes of 4 integers, by the published code."""
    first = [[*range(4), *[-1] * 10], [*range(8), *[-1] * 6], [*range(12), -1, -1]]
    then = [
        [0, 1, 12, 13, 14, 15, 6, 7, 8, 9, 10, 11],
        [0, 1, *range(12, 20)],
        [20, 21, 22, 23, *range(14, 20)],
        [*range(20, 28), 18, 19],
        [30, 31, *range(22, 30)],
        [*range(30, 36), *range(26, 30)],
    ]
    return first + [row + [-1] * (14 - len(row)) for row in then]


def jitted(*args, **options):
    init, draw, push = replay_buffer(*args, **options)
    return ReplayBuffer(init, jax.jit(draw), jax.jit(push))


def contents(state, shard=0):
    return np.asarray(state.storage[shard, : int(state.size[shard])])


def test_igebm_codec_is_the_published_one():
    """Codes and read-back values that the published arithmetic gives, written out by hand."""
    codec = replay_codec("igebm_uint8")
    x = jnp.array([0.0, 1.0, 0.5, 1 / 255, 0.99999, -0.1, 1.2, 0.92719257])
    code = codec.encode(x)
    np.testing.assert_array_equal(code, [0, 255, 127, 1, 254, 0, 255, 236])
    assert code.dtype == jnp.uint8
    decoded = codec.decode(code, jnp.full(8, 0.63365245))
    np.testing.assert_allclose(
        decoded, (np.array([0, 255, 127, 1, 254, 0, 255, 236]) + 0.63365245) / 256, rtol=1e-6
    )


def test_recorded_codes_and_ring_of_the_published_code():
    recorded = below(load_reference("igebm"), "replay")
    codec = replay_codec("igebm_uint8")
    np.testing.assert_array_equal(codec.encode(recorded["x"]), recorded["code"])
    decoded = codec.decode(jnp.asarray(recorded["code"]), jnp.asarray(recorded["u01"]))
    np.testing.assert_array_equal(decoded, recorded["decoded"])
    np.testing.assert_array_equal(recorded["ring_states"], published_ring_states())


def test_uint8_codec_keeps_the_mean_and_the_published_one_darkens():
    x = jax.random.uniform(KEY, (20_000,), minval=-1.0)
    kept, dark = replay_codec("uint8", low=-1.0), replay_codec("igebm_uint8", low=-1.0)
    passed, darkened = x, x
    for i in range(20):
        uniform = jax.random.uniform(jax.random.key(i), x.shape)
        passed = kept.decode(kept.encode(passed), uniform)
        darkened = dark.decode(dark.encode(darkened), uniform)
        assert i > 0 or jnp.max(jnp.abs(passed - x)) <= 2 / 256 + 1e-6
    assert jnp.abs(jnp.mean(passed - x)) < 4 * jnp.std(passed - x) / jnp.sqrt(x.size)
    # Each pass takes u/256 off on average (u in [0, 1]): over 20, (1 - 1/256)^20 of u is left.
    unit = (jnp.mean(darkened) + 1) / (jnp.mean(x) + 1)
    assert abs(unit - (1 - 1 / 256) ** 20) < 0.01


def test_published_overshoot_is_reproduced():
    buffer = jitted(10, overshoot=True)
    state = buffer.init(jnp.zeros(4))
    for i, expected in enumerate(published_ring_states()):
        state = buffer.push(state, jnp.arange(4 * i, 4 * i + 4, dtype=jnp.float32))
        expected = [value for value in expected if value >= 0]
        np.testing.assert_array_equal(contents(state), expected)


@pytest.mark.parametrize(("overshoot", "slots"), [(False, 5), (True, 7)])
def test_an_empty_buffer_has_a_slot_for_each_entry(overshoot, slots):
    """And room behind the end for all but one of a shard's share, where it overshoots."""
    buffer = replay_buffer(15, num_shards=3, storage="uint8", overshoot=overshoot)
    state = buffer.init(jax.ShapeDtypeStruct((9, 2, 4), jnp.float32))
    assert state.storage.shape == (3, slots, 2, 4)
    assert state.storage.dtype == jnp.uint8
    for numbers in (state.position, state.size):
        np.testing.assert_array_equal(numbers, [0, 0, 0])
        assert numbers.dtype == jnp.int32
    assert replay_buffer(1).init(jnp.zeros((1, 2), jnp.bfloat16)).storage.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="positive multiple of num_shards=1, got 0"):
        replay_buffer(0)


@pytest.mark.parametrize("storage", ["float", "uint8"])
@pytest.mark.filterwarnings("error")
def test_types_are_those_of_the_buffer_and_of_the_chains(storage):
    half, single = (jnp.zeros((4, 2), dtype) for dtype in (jnp.bfloat16, jnp.float32))
    buffer = replay_buffer(8, storage=storage)
    state = buffer.init(half)
    pushed = jax.eval_shape(buffer.push, state, single)
    assert pushed.storage.dtype == state.storage.dtype
    for fresh in (half, single):
        assert jax.eval_shape(buffer.draw, KEY, state, fresh)[0].dtype == fresh.dtype


def test_plain_ring_is_a_queue_and_joins_the_published_one():
    """After every push the ring holds the last `capacity` entries, like collections.deque."""
    buffer = jitted(10)
    state, queue = buffer.init(jnp.zeros(4)), deque(maxlen=10)
    for i, published in enumerate(published_ring_states()):
        x = np.arange(4 * i, 4 * i + 4, dtype=np.float32)
        state = buffer.push(state, x)
        queue.extend(x)
        assert sorted(contents(state)) == sorted(queue)
        if i >= 5:
            np.testing.assert_array_equal(contents(state), published[:10])


def test_mix_of_replayed_and_fresh_starts():
    """A replayed start is an entry, uniformly chosen; 95 % are; all are fresh while it is empty."""
    buffer = jitted(10, replay_probability=0.95)
    fresh = -jnp.ones((20_000, 2))
    state = buffer.init(fresh[:10])
    x, is_replayed = buffer.draw(KEY, state, fresh)
    assert not is_replayed.any()
    np.testing.assert_array_equal(x, fresh)
    entries = jnp.stack([jnp.arange(10.0), jnp.arange(10.0) ** 2], axis=1)
    state = buffer.push(state, entries)
    x, is_replayed = buffer.draw(KEY, state, fresh)
    share = is_replayed.mean()
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 20_000)
    np.testing.assert_array_equal(x[~is_replayed], -1.0)
    np.testing.assert_array_equal(x[is_replayed, 1], x[is_replayed, 0] ** 2)
    counts = np.bincount(np.asarray(x[is_replayed, 0], int), minlength=10)
    chi_squared = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert chi_squared < 33.7  # 1e-4 quantile of chi-squared with 9 degrees of freedom


def test_codes_of_a_box():
    codec = replay_codec("uint8", low=-2.0, high=4.0)
    x = jnp.array([-2.5, -2.0, -1.98, -1.97, 1.0, 3.97, 3.98, 4.0, 9.0])
    np.testing.assert_array_equal(codec.encode(x), [0, 0, 0, 1, 128, 254, 255, 255, 255])
    assert isinstance(codec.dtype, np.dtype)
    code, u = jnp.array([0, 128, 255], jnp.uint8), jnp.array([0.0, 0.5, 0.75])
    np.testing.assert_allclose(codec.decode(code, u), [-2, -2 + 6 * 128.5 / 256, 4 - 6 / 1024])
    plain = replay_codec("float", low=5.0, high=5.0)  # which has no use for them
    assert plain.dtype is None
    assert plain.encode(x) is plain.decode(x, None) is x
    with pytest.raises(ValueError, match=r"low below high, the data's box, got low=5.0, high=5.0"):
        replay_codec("igebm_uint8", low=5.0, high=5.0)


def test_settings_where_none_are_given():
    """A single entry will do; 95 % replay it; its box is [0, 1]."""
    buffer = jitted(16, storage="uint8")
    state = buffer.push(buffer.init(jnp.zeros((1, 1))), jnp.array([[0.8]]))
    np.testing.assert_array_equal(state.storage[0, 0], [204])
    x, is_replayed = buffer.draw(KEY, state, jnp.full((8_000, 1), -1.0))
    assert abs(is_replayed.mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 8_000)
    replayed = x[is_replayed]
    assert 204 / 256 <= replayed.min() < replayed.max() <= 205 / 256


def test_draws_are_jaxs_own_hash_of_key_chain_and_entry():
    """Twenty rounds; the first number is the coin, the second the place, then one for each code."""
    key = jnp.array([3, 7], jnp.uint32)
    chain, entry = np.meshgrid(np.arange(50, 90), np.arange(4), indexing="ij")
    counters = np.concatenate([chain.ravel(), entry.ravel()]).astype(np.uint32)
    words = np.asarray(threefry_2x32(key, jnp.asarray(counters)))[:160].reshape(40, 4)
    u = (words >> 8) / 2.0**24
    share = np.median(u[1:, 0])  # a chain whose coin is just that starts afresh
    buffer = jitted(8, storage="uint8", low=-2.0, high=4.0, replay_probability=share)
    entries = jnp.linspace(-2, 4, 10).reshape(5, 2)
    state = buffer.push(buffer.init(jnp.zeros((5, 2))), entries)
    fresh = jnp.full((40, 2), 9.0)
    found, is_replayed = buffer.draw(key, state, fresh, first_chain=50)
    assert share in u[:, 0]
    np.testing.assert_array_equal(is_replayed, u[:, 0] < share)
    code = np.asarray(state.storage)[0, np.floor(5 * u[:, 1]).astype(int)]
    wanted = np.where(u[:, :1] < share, -2 + 6 * (code + u[:, 2:]) / 256, 9)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_shard_waits_for_its_part_of_the_least_size():
    buffer = jitted(16, num_shards=2, min_size=5, replay_probability=1.0)
    state = buffer.push(buffer.init(jnp.zeros(4)), jnp.ones(4))  # two in each: 3 are wanted
    assert not buffer.draw(KEY, state, jnp.zeros(4))[1].any()
    state = buffer.push(state, jnp.ones(2))
    assert buffer.draw(KEY, state, jnp.zeros(4))[1].all()


def test_only_filled_slots_are_drawn_and_min_size_waits():
    buffer = jitted(100, min_size=8, replay_probability=1.0)
    state = buffer.push(buffer.init(jnp.zeros(4)), jnp.full(4, 5.0))
    _, is_replayed = buffer.draw(KEY, state, jnp.zeros(4))
    assert not is_replayed.any()
    state = buffer.push(state, jnp.full(4, 6.0))
    x, is_replayed = buffer.draw(KEY, state, jnp.zeros(400))
    assert is_replayed.all()
    assert set(np.unique(x)) == {5.0, 6.0}


def test_uint8_entries_come_back_within_one_code():
    buffer = jitted(8, storage="uint8", low=-1.0, high=1.0, replay_probability=1.0)
    x = jax.random.uniform(KEY, (8, 3, 3, 1), minval=-1.0)
    state = buffer.push(buffer.init(x), x)
    assert state.storage.dtype == jnp.uint8
    drawn, _ = buffer.draw(KEY, state, jnp.zeros_like(x))
    nearest = jnp.abs(drawn[:, None] - x[None]).max(axis=(2, 3, 4)).min(axis=1)
    assert nearest.max() <= 2 / 256 + 1e-6


def some_steps(buffer, state, rng_key, first_chain, batch):
    """Three rounds of draw, move, push; every entry carries its chain's number."""
    chain = first_chain + jnp.arange(batch)
    starts = []
    for i in range(3):
        fresh = chain[:, None] + jnp.zeros((batch, 2))
        x, _ = buffer.draw(jax.random.fold_in(rng_key, i), state, fresh, first_chain=first_chain)
        starts.append(x)
        state = buffer.push(state, x + 100.0)
    return state, jnp.stack(starts)


def test_same_chains_on_one_and_eight_devices_and_shards_stay_apart():
    buffer = replay_buffer(32, num_shards=8, replay_probability=0.5)
    state = buffer.init(jnp.zeros((16, 2)))
    whole_state, whole = jax.jit(lambda s: some_steps(buffer, s, KEY, 0, 16))(state)

    def on_device(state, device):
        return some_steps(buffer, state, KEY, 2 * device, 2)

    stacked = jax.tree.map(lambda a: a.reshape(8, 1, *a.shape[1:]), state)
    states, parts = jax.pmap(on_device)(stacked, jnp.arange(8))
    np.testing.assert_array_equal(jnp.concatenate(list(parts), axis=1), whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.reshape(b.shape), b), states, whole_state
    )
    shard_of_entry = (np.asarray(whole_state.storage[..., 0]) % 100) // 2
    used = np.arange(4)[None, :] < np.asarray(whole_state.size)[:, None]
    expected = np.broadcast_to(np.arange(8)[:, None], shard_of_entry.shape)
    np.testing.assert_array_equal(shard_of_entry[used], expected[used])


def test_sharded_state_stays_where_it_is_under_jit():
    buffer = replay_buffer(32, num_shards=8)
    mesh = Mesh(np.array(jax.devices()[:8]), ("shard",))
    rows = NamedSharding(mesh, PartitionSpec("shard"))
    state = jax.device_put(buffer.init(jnp.zeros((16, 2))), rows)
    x = jax.device_put(jnp.ones((16, 2)), rows)
    step = jax.jit(lambda s, x: (buffer.push(s, x), buffer.draw(KEY, s, x)))
    new, _ = step(state, x)
    assert new.storage.sharding.is_equivalent_to(rows, 4)
    program = step.lower(state, x).compile().as_text()
    assert not any(op in program for op in ("all-gather", "all-to-all", "collective-permute"))


def test_donation_draws_by_chain_and_one_compilation():
    buffer = replay_buffer(16)
    state = buffer.init(jnp.zeros((4, 2)))
    push = jax.jit(buffer.push, donate_argnums=0)
    old = state.storage
    state = push(state, jnp.arange(8.0).reshape(4, 2))
    assert old.is_deleted()
    state = push(state, -jnp.arange(8.0).reshape(4, 2))
    assert push._cache_size() == 1
    fresh, draw = jnp.full((10, 2), 9.0), jax.jit(buffer.draw)
    ten, _ = draw(KEY, state, fresh)
    five, _ = draw(KEY, state, fresh[:5])
    rest, _ = draw(KEY, state, fresh[5:], first_chain=5)
    np.testing.assert_array_equal(ten, jnp.concatenate([five, rest]))
    other, _ = draw(jax.random.key(1), state, fresh)
    assert (ten != other).any()


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(ValueError, match="capacity of at least the batch, 128, got 100"):
        replay_buffer(100).init(jnp.zeros((128, 2)))
    with pytest.raises(ValueError, match="num_shards=8"):
        replay_buffer(100, num_shards=8)
    with pytest.raises(ValueError, match="expected a batch that num_shards=8 divides, got 12"):
        replay_buffer(800, num_shards=8).init(jnp.zeros((12, 2)))
    with pytest.raises(ValueError, match="'float', 'uint8' or 'igebm_uint8'"):
        replay_buffer(100, storage="int8")
    with pytest.raises(ValueError, match="between 0 and 1"):
        replay_buffer(100, replay_probability=95)
    with pytest.raises(ValueError, match="below high"):
        replay_buffer(100, storage="uint8", low=1.0, high=-1.0)
    buffer = replay_buffer(16)
    state = buffer.init(jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="entries \\(2,\\)"):
        buffer.push(state, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="than a ring of the buffer holds, 16, got 17"):
        buffer.push(state, jnp.zeros((17, 2)))
