"""Arrays over eight devices: replicas, shards, and functions of many examples."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.samplers import random

KEY = jax.random.key(0)


def test_a_tree_is_on_every_device_and_comes_back():
    tree = {"w": np.arange(3.0, dtype=np.float32), "n": np.int32(4)}
    spread = parallel.replicate(tree)
    assert spread["w"].shape == (8, 3)
    assert {shard.device for shard in spread["w"].addressable_shards} == set(jax.devices())
    first = parallel.first_replica(spread)
    assert first["w"].devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(first["w"], tree["w"])
    assert (first["n"].shape, int(first["n"])) == ((), 4)
    np.testing.assert_array_equal(parallel.local_shards(spread["w"]), np.tile(tree["w"], (8, 1)))


def normal_samples(scale, index):
    """Sample i is normal noise of index i, times the scale."""
    return {"x": scale * random.normal(KEY, index, jnp.zeros((index.shape[0], 2)))}


@pytest.mark.parametrize("number", [16, 13, 1])
def test_devices_share_one_set_of_examples(number):
    """Fewer than a batch as well, without compiling anew; another common argument too."""
    mapped = parallel.map_examples(normal_samples, 16)
    index = 32 + np.arange(number)
    for scale in (3.0, 5.0):
        wanted = scale * random.normal(KEY, index, jnp.zeros((number, 2)))
        np.testing.assert_allclose(mapped(jnp.float32(scale), index)["x"], wanted, rtol=1e-6)


def test_fewer_examples_than_a_batch_compile_nothing_anew(caplog):
    """Nor do arrays that are on a device."""
    mapped, few = parallel.map_examples(normal_samples, 16), jnp.arange(5)
    mapped(jnp.float32(1), np.arange(16))
    with jax.log_compiles():
        mapped(jnp.float32(1), np.arange(5))
        mapped(jnp.float32(1), few)
    assert "Finished XLA compilation" not in caplog.text


def test_numbers_are_rounded_up_to_the_devices():
    assert [parallel.round_up(n) for n in (1, 8, 9, 16)] == [8, 8, 16, 16]
    assert parallel.round_up(10, devices=3) == 12


def test_a_number_that_the_devices_do_not_divide_is_refused_with_the_nearest():
    parallel.check_divides("training.batch_size", 24, 8)
    for number, nearest in ((12, 16), (3, 8), (19, 16)):
        with pytest.raises(ValueError, match=rf"^n: expected .* 8 devices, such as {nearest}, got"):
            parallel.check_divides("n", number, 8)


def test_rows_lie_on_the_devices_in_order(monkeypatch):
    """One process sends them there by no way of its own, which would fetch those of a device."""
    monkeypatch.setattr(jax, "make_array_from_callback", None)
    x = np.arange(32.0).reshape(16, 2)
    spread = parallel.spread(x)
    np.testing.assert_array_equal(spread, x)
    rows = {shard.device: shard.data for shard in spread.addressable_shards}
    for i, device in enumerate(jax.devices()):
        np.testing.assert_array_equal(rows[device], x[2 * i : 2 * i + 2])


def test_shards_are_in_the_order_of_their_rows():
    """Where devices are in another one, or shards are listed so, as those of a pod may be."""
    mesh = jax.sharding.Mesh(jax.devices()[::-1], ("batch",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    x = np.arange(24).reshape(8, 3)
    placed = jax.device_put(x, rows)
    found = parallel.local_shards(placed)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, x)
    listed = types.SimpleNamespace(addressable_shards=placed.addressable_shards[::-1])
    np.testing.assert_array_equal(parallel.local_shards(listed), x)


def test_devices_know_each_other_by_one_name():
    total = parallel.on_each_device(lambda x: jax.lax.psum(x, parallel.AXIS))(np.arange(8.0))
    np.testing.assert_array_equal(total, np.full(8, 28.0))


def test_what_is_on_all_devices_is_whole_on_the_host():
    x = np.arange(32.0).reshape(16, 2)
    tree = parallel.everywhere({"w": x})
    assert [shard.data.shape for shard in tree["w"].addressable_shards] == [(16, 2)] * 8
    for placed in (parallel.spread(x), tree["w"], x, x.tolist()):
        found = parallel.whole(placed)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, x)


def test_what_all_examples_share_goes_to_the_devices_once(monkeypatch):
    placed, plain = [], parallel.replicate
    monkeypatch.setattr(parallel, "replicate", lambda tree: placed.append(tree) or plain(tree))
    mapped = parallel.map_examples(lambda w, x: {"y": w * x}, 8)
    first, second = np.float32(2), np.float32(3)
    for common, number in ((first, 1), (first, 1), (second, 2), (first, 3)):
        np.testing.assert_array_equal(mapped(common, np.ones(8))["y"], common)
        assert len(placed) == number


def test_one_process_tells_itself_and_raises_its_own_error():
    assert parallel.tell(np.int32(3)) == 3
    assert (parallel.tell(2.5).dtype, parallel.tell([1, 2]).shape) == (np.float64, (2,))
    assert parallel.replicate({"nothing": ()}) == {"nothing": ()}
    assert parallel.tell_bytes(b"abc") == b"abc"
    assert parallel.tell_bytes(None) is None
    with pytest.raises(KeyError, match="x"):
        parallel.first_does(lambda: {}["x"])
    with parallel.all_or_none():
        pass


@pytest.fixture
def two(monkeypatch):
    """Sets which of two processes this one is, and what collectives give it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def set_up(index, **collectives):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        for name, collective in collectives.items():
            monkeypatch.setattr(parallel.multihost_utils, name, collective)

    return set_up


@pytest.mark.parametrize("content", [b"hello", b"", None])
def test_process_0_tells_bytes_of_any_length(two, content):
    said = []
    two(0, broadcast_one_to_all=lambda value: said.append(np.array(value)) or value)
    assert parallel.tell_bytes(content) == content
    lengths = {None: -1, b"": 0, b"hello": 5}
    assert (said[0], said[0].dtype) == (lengths[content], np.int32)
    assert [row.tobytes() for row in said[1:]] == ([] if content is None else [content])
    for own in (None, b"other"):
        told = list(said)
        two(1, broadcast_one_to_all=lambda value, told=told: told.pop(0) + 0 * value)
        assert parallel.tell_bytes(own) == content
        assert told == []


def test_a_long_message_of_another_process_is_cut(two):
    """In the middle of a letter too; of several, that of the first."""
    rows = {}

    def gather(row):
        rows.setdefault("sent", row)
        return np.stack([0 * row, rows["sent"], row])

    two(1, process_allgather=gather)
    assert parallel._failure_anywhere("x" + 600 * "é") == "x" + 499 * "é" + "\ufffd"
    with pytest.raises(ValueError, match=r"^xé"), parallel.all_or_none():
        pass
    two(0, process_allgather=lambda row: np.stack([row, row]))
    assert parallel._failure_anywhere("") is None


def test_each_process_says_why_it_fails(two):
    """Its message, or what kind of error it is; what is no text of Unicode too."""
    said = []

    def gather(row):
        said.append(row.tobytes().rstrip(b"\0"))
        return np.stack([row, row])

    two(1, process_allgather=gather)
    for error in (ValueError("no data"), KeyError(), OSError("a\udcffb")):
        with pytest.raises(type(error)), parallel.all_or_none():
            raise error
    assert said == [b"no data", b"KeyError", b"a?b"]


def test_process_0_alone_does_what_the_others_are_told_of(two):
    done = []
    for index in (0, 1):
        two(index, process_allgather=lambda row: np.stack([row, row]))
        parallel.first_does(lambda index=index: done.append(index))
    assert done == [0]


def test_a_number_is_told_in_its_own_type(two):
    two(1, broadcast_one_to_all=lambda value: np.asarray(value, np.float32) + 1)
    told = parallel.tell(np.float64(1.5))
    assert (told.dtype, float(told)) == (np.float64, 2.5)


def test_rows_of_several_processes_are_placed_by_each(two):
    """What every process has; of which each device here gets its rows."""
    two(0)
    x = np.arange(32, dtype=np.float32).reshape(16, 2)
    for given in (x, jnp.asarray(x), x.tolist()):
        spread = parallel.spread(given)
        np.testing.assert_array_equal(spread, x)
        rows = {shard.device: shard.data for shard in spread.addressable_shards}
        np.testing.assert_array_equal(rows[jax.devices()[3]], x[6:8])
    np.testing.assert_array_equal(parallel.everywhere({"w": x})["w"], x)


def test_an_array_that_lies_on_other_processes_too_is_gathered_or_stays(two, monkeypatch):
    class Far:
        is_fully_addressable = False

    monkeypatch.setattr(jax, "Array", Far)
    monkeypatch.setattr(jax, "device_put", lambda x, sharding: (x, sharding.spec))
    two(0, process_allgather=lambda x, tiled: np.full(3, tiled))
    np.testing.assert_array_equal(parallel.whole(Far()), np.full(3, True))
    far = Far()
    assert parallel.spread(far) == (far, jax.sharding.PartitionSpec("batch"))


def test_what_holds_on_every_process(two):
    two(0, process_allgather=lambda here: np.stack([here, np.asarray(True)]))
    assert parallel.all_true(True) is True
    assert parallel.all_true(False) is False
    two(0, process_allgather=lambda here: np.stack([here, np.asarray(False)]))
    assert not parallel.all_true(True)
