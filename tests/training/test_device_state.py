"""Where a training state lies on eight devices, and one run on any number of them."""

import chex
import jax
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.methods import MethodState
from ebm_jax.training import device_state
from ebm_jax.training.state import TrainState


def state(buffer=()):
    params = {"w": np.arange(3.0, dtype=np.float32)}
    zero, finite = np.int32(0), np.bool_(True)
    method_state = MethodState({"u": params["w"]}, buffer)
    return TrainState(zero, params, params, (), method_state, zero, finite)


def test_a_state_is_on_every_device_and_comes_back_once():
    on_devices = device_state.to_devices(state())
    assert on_devices.params["w"].shape == (8, 3)
    assert len(on_devices.params["w"].addressable_shards) == 8
    host = device_state.to_host(on_devices)
    chex.assert_trees_all_equal(host, state())
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(host))


@pytest.mark.parametrize("shards_per_device", [1, 3])
def test_what_is_sharded_has_its_part_on_each_device(shards_per_device):
    buffer = np.arange(40.0 * shards_per_device, dtype=np.float32).reshape(-1, 5)
    on_devices = device_state.to_devices(state({"ring": buffer}))
    ring = on_devices.method_state.sharded["ring"]
    assert {shard.device for shard in ring.addressable_shards} == set(jax.devices())
    first = parallel.first_replica(on_devices).method_state.sharded["ring"]
    np.testing.assert_array_equal(first, buffer[:shards_per_device])
    chex.assert_trees_all_equal(device_state.to_host(on_devices), state({"ring": buffer}))


def test_shards_that_the_devices_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"^method.buffer_shards: .* 8 devices, got 12: run"):
        device_state.to_devices(state(np.zeros((12, 5), np.float32)))


def test_shards_that_the_parts_of_a_batch_do_not_divide_are_refused():
    """24 of them, three on each device: in one part or in three."""
    rings = state(np.zeros((24, 5), np.float32))
    for parts in (1, 3):
        device_state.check_shards(rings, parts)
    with pytest.raises(ValueError, match=r"^compute.microbatch: .* at most 3 parts .* got 2$"):
        device_state.check_shards(rings, 2)


def test_a_process_has_the_shards_of_its_own_devices(monkeypatch):
    """The second half of 16 devices: of 32 rows the last 16."""
    buffer = np.arange(160.0, dtype=np.float32).reshape(32, 5)
    monkeypatch.setattr(jax, "device_count", lambda: 16)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    on_devices = device_state.to_devices(state({"ring": jax.numpy.asarray(buffer)}))
    ring = on_devices.method_state.sharded["ring"]
    np.testing.assert_array_equal(ring, buffer[16:].reshape(8, 2, 5))


def test_of_several_processes_the_shards_of_all_come_back(monkeypatch):
    """Process 1 has the second half: here 100 more."""
    buffer = np.arange(40.0, dtype=np.float32).reshape(-1, 5)
    on_devices = device_state.to_devices(state({"ring": buffer}))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        device_state.multihost_utils, "process_allgather",
        lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, leaf + 100]), tree),
    )  # fmt: skip
    found = device_state.to_host(on_devices)
    wanted = state({"ring": np.concatenate([buffer, buffer + 100])})
    chex.assert_trees_all_equal(found, wanted)
