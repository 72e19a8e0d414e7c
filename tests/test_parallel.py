"""Where a state and a set of samples lie on eight devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.objectives.base import Objective, ObjectiveState
from ebm_jax.samplers import random
from ebm_jax.training.train_step import TrainState

KEY = jax.random.key(0)


def state(buffer=()):
    params = {"w": np.arange(3.0, dtype=np.float32)}
    zero = np.int32(0)
    return TrainState(zero, params, params, (), ObjectiveState({"u": params["w"]}, buffer), zero)


def index_sampler():
    """Sample i is normal noise of chain i, times the parameter."""

    def sample(rng_key, params, num_samples, *, first_sample=0):
        chain = first_sample + jnp.arange(num_samples)
        return params * random.normal(rng_key, chain, jnp.zeros((num_samples, 2)))

    return Objective(None, None, sample)


def test_a_state_is_on_every_device_and_comes_back_once():
    split = parallel.split_state(state())
    assert split.params["w"].shape == (8, 3)
    assert len(split.params["w"].addressable_shards) == 8
    chex.assert_trees_all_equal(parallel.join_state(split), state())


def test_a_replay_buffer_has_a_shard_on_each_device():
    buffer = np.arange(40.0, dtype=np.float32).reshape(8, 5)
    split = parallel.split_state(state(buffer))
    shards = split.objective_state.replay_buffer.addressable_shards
    assert {shard.device for shard in shards} == set(jax.devices())
    np.testing.assert_array_equal(parallel.first_replica(split).objective_state.replay_buffer,
                                  buffer[0])  # fmt: skip
    chex.assert_trees_all_equal(parallel.join_state(split), state(buffer))


def test_shards_start_different():
    def init(rng_key):
        return state(jax.random.normal(rng_key, (5,)))

    started = parallel.init_shards(init, KEY)
    buffer = started.objective_state.replay_buffer
    assert buffer.shape == (8, 5)
    assert len(np.unique(buffer)) == 40
    chex.assert_trees_all_equal(parallel.init_shards(lambda _: state(), KEY), state())


def test_a_buffer_of_another_number_of_devices_is_refused():
    with pytest.raises(ValueError, match="has 4 shards for 8 devices: run on 4 devices, or in a"):
        parallel.split_state(state(np.zeros((4, 5), np.float32)))


def test_devices_share_one_set_of_samples():
    sampler = parallel.make_sampler(index_sampler(), 16)
    wanted = 3 * random.normal(KEY, 32 + jnp.arange(16), jnp.zeros((16, 2)))
    np.testing.assert_allclose(sampler(KEY, jnp.float32(3), 32), wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="12 samples do not divide among 8 devices"):
        parallel.make_sampler(index_sampler(), 12)
