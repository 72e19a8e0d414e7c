"""Chains that share a key never share their noise, whoever maps over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ebm_jax import samplers
from ebm_jax.samplers.run import as_index, start

KEY = jax.random.key(0)
P = PartitionSpec


def energy_fn(x):
    return 0.5 * jnp.sum(x**2, axis=-1)


KERNEL = samplers.mala(energy_fn, 0.3)
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 3)) * 3, jnp.float32)  # 8 shares of 2


def end(x, key=KEY):
    return samplers.run_chain(key, KERNEL, x, 20)[0].x


@functools.cache
def whole():
    return np.asarray(end(X.reshape(16, 3))).reshape(X.shape)


def assert_whole(x):
    np.testing.assert_allclose(np.asarray(x).reshape(X.shape), whole(), rtol=1e-5, atol=1e-6)


def test_pmap_numbers_devices():
    assert_whole(jax.pmap(end)(X))
    assert_whole(jax.pmap(end, axis_name="devices")(X))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_numbers_devices(check_vma):
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(
        end, mesh=mesh, in_specs=P("devices"), out_specs=P("devices"), check_vma=check_vma
    )
    assert_whole(jax.jit(run)(X.reshape(16, 3)))


def test_replicas_over_another_axis_stay_replicas():
    """Tensor-parallel energies need the same chains along the axis that splits the parameters."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    run = jax.shard_map(end, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert_whole(jax.jit(run)(X.reshape(16, 3)))


def test_vmap_over_positions_numbers_rows():
    assert_whole(jax.vmap(end)(X))
    assert_whole(jax.jit(jax.vmap(jax.jit(end)))(X))
    nested = jax.vmap(jax.vmap(end))(X.reshape(2, 4, 2, 3))
    assert_whole(nested)


def test_rows_with_keys_of_their_own_are_as_if_alone():
    keys = jax.random.split(KEY, 8)
    rows = jax.vmap(lambda x, key: end(x, key))(X, keys)
    np.testing.assert_allclose(rows[3], end(X[3], keys[3]), rtol=1e-5, atol=1e-6)


def test_vmap_over_step_sizes_keeps_common_noise():
    def run(h):
        return samplers.run_chain(KEY, samplers.mala(energy_fn, h), X[0], 5)[0].x

    rows = jax.vmap(run)(jnp.array([0.1, 0.3]))
    np.testing.assert_allclose(rows[1], run(0.3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kernel",
    [
        KERNEL,
        samplers.parallel_tempering(
            energy_fn, [1.0, 2.0], lambda e, t: samplers.mala(e, 0.1 * t, temperature=t)
        ),
    ],
    ids=["mala", "tempering"],
)
def test_init_by_hand_numbers_devices(kernel):
    chain = jax.pmap(lambda x: kernel.init(x).chain)(X)
    np.testing.assert_array_equal(chain, np.arange(16).reshape(8, 2))


def test_schedules_ais_and_the_replay_buffer_number_devices():
    def levels(x):
        make = functools.partial(samplers.mala, energy_fn)
        return samplers.run_schedule(KEY, make, jnp.array([0.1, 0.2]), x, 2)[0].x

    def weights(x):
        path = samplers.geometric_path(energy_fn, lambda x: 2 * energy_fn(x))
        make = functools.partial(samplers.mala, step_size=0.1)
        return samplers.ais(KEY, path, x, jnp.linspace(0, 1, 4), make).log_weights

    for function in (levels, weights):
        alone = np.asarray(function(X.reshape(16, 3)))
        spread = np.asarray(jax.pmap(function)(X)).reshape(alone.shape)
        np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-5)

    buffer = samplers.replay_buffer(64, replay_probability=0.5)
    state = buffer.push(buffer.init(X.reshape(16, 3)), X.reshape(16, 3))
    alone = buffer.draw(KEY, state, X.reshape(16, 3))[1]
    spread = jax.pmap(lambda x: buffer.draw(KEY, state, x)[1])(X)
    np.testing.assert_array_equal(np.asarray(spread).reshape(16), alone)


def test_first_chain_asks_for_copies():
    same = jnp.broadcast_to(X[:1], X.shape)
    ends = jax.pmap(lambda x: samplers.run_chain(KEY, KERNEL, x, 5, first_chain=0)[0].x)(same)
    np.testing.assert_array_equal(ends[0], ends[5])


def test_sharded_positions_are_numbered_as_one_array():
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    x = jax.device_put(X.reshape(16, 3), NamedSharding(mesh, P("devices")))
    assert_whole(end(x))


def test_indices_have_32_bits_though_floats_have_64():
    with jax.enable_x64(True):

        def chain(x, first=None):
            return start(KEY, KERNEL, x, as_index(first)).chain

        x = jnp.zeros((3, 2, 1))
        rows, given = jax.jit(jax.vmap(chain))(x), chain(x[0], 5)
        np.testing.assert_array_equal(chain(x[0]), [0, 1])
    np.testing.assert_array_equal(rows, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(given, [5, 6])
    assert rows.dtype == given.dtype == jnp.int32
