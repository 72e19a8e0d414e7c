"""run_chain: the same draws however it is run, one compilation, memory, what it keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from ebm_jax import samplers
from ebm_jax.samplers.run import Chains, restart

KEY = jax.random.key(11)


def energy_fn(x):
    return jnp.sum(0.5 * x**2 + jnp.cos(x), axis=1)


KERNELS = {
    "langevin": samplers.langevin(energy_fn, 0.1),
    "mala": samplers.mala(energy_fn, 0.3),
    "hmc": samplers.hmc(energy_fn, 0.4, 3),
    "underdamped": samplers.underdamped_langevin(energy_fn, 0.3),
    "igebm": samplers.igebm_langevin(energy_fn, 0.1, noise_std=0.3, box=None),
    "tempering": samplers.parallel_tempering(
        energy_fn, [1.0, 2.0, 4.0], lambda e, t: samplers.mala(e, 0.2 * t, temperature=t)
    ),
}


def start(num_chains=16):
    return jnp.asarray(np.random.default_rng(0).normal(size=(num_chains, 3)), jnp.float32)


def assert_same(a, b, rtol=0.0, atol=0.0):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_same_draws_by_hand_in_a_batch_and_in_pieces(kernel):
    """Single steps of 16 chains by hand, against a part of them in a loop and a part of those."""
    step, state, by_hand = jax.jit(kernel.step), kernel.init(start()), []
    for n in range(12):
        state, _ = step(jax.random.fold_in(KEY, n), state)
        by_hand.append(state.x)
    last_eight, _ = samplers.run_chain(KEY, kernel, start()[8:], 6, first_chain=8)
    assert_same(last_eight.x, by_hand[5][8:], rtol=1e-5, atol=1e-6)
    four = jax.tree.map(lambda a: a[2:6], last_eight)  # a state keeps its chains' indices
    four, _ = samplers.run_chain(KEY, kernel, four, 6, first_step=6)
    assert_same(four.x, by_hand[11][10:14], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mala", "tempering"])
def test_same_draws_on_eight_devices(name):
    kernel, x0 = KERNELS[name], start()
    whole, whole_info = samplers.run_chain(KEY, kernel, x0, 10)
    devices = jax.devices()
    assert len(devices) == 8

    @functools.partial(jax.pmap, axis_name="devices", in_axes=(None, 0))
    def on_each(key, x):
        first = jax.lax.axis_index("devices") * x.shape[0]
        return samplers.run_chain(key, kernel, x, 10, first_chain=first)

    spread, info = on_each(KEY, x0.reshape(8, 2, 3))
    assert_same(spread.x.reshape(16, 3), whole.x, rtol=1e-5, atol=1e-6)
    assert_same(info.acceptance.reshape(16), whole_info.acceptance, rtol=1e-5, atol=1e-6)

    mesh = jax.make_mesh((8,), ("devices",))
    axis, everywhere = PartitionSpec("devices"), PartitionSpec()

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(everywhere, axis), out_specs=axis)
    def on_shards(key, x):
        first = jax.lax.axis_index("devices") * x.shape[0]
        state, info = samplers.run_chain(key, kernel, x, 10, keep_every=5, first_chain=first)
        return state.x, info.kept.swapaxes(0, 1)

    sharded = jax.device_put(x0, NamedSharding(mesh, axis))
    x, kept = on_shards(KEY, sharded)
    assert_same(x, whole.x, rtol=1e-5, atol=1e-6)
    assert_same(kept[:, 1], x)
    state, _ = samplers.run_chain(KEY, kernel, sharded, 10)
    assert len(state.x.sharding.device_set) == 8
    assert_same(state.x, whole.x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "underdamped"])
def test_a_pytree_of_positions_moves_as_one_vector(name):
    def of_tree(x):
        return energy_fn(jnp.concatenate([x["a"][:, :, 0], x["b"]], axis=1))

    make = {
        "langevin": lambda e, h: samplers.langevin(e, h, max_grad=1.0),
        "mala": samplers.mala,
        "hmc": lambda e, h: samplers.hmc(e, h, 3, mass=h),
        "underdamped": lambda e, h: samplers.underdamped_langevin(e, 0.3, mass=h),
    }[name]
    steps = jnp.array([[0.1, 0.2, 0.3]])
    flat, flat_info = samplers.run_chain(KEY, make(energy_fn, steps), start(5), 6)
    tree = {"a": start(5)[:, :2, None], "b": start(5)[:, 2:]}
    tree_steps = {"a": steps[:, :2, None], "b": steps[:, 2:]}
    state, info = samplers.run_chain(KEY, make(of_tree, tree_steps), tree, 6)
    together = jnp.concatenate([state.x["a"][:, :, 0], state.x["b"]], axis=1)
    assert_same(together, flat.x, rtol=1e-4, atol=1e-5)
    assert_same(info, flat_info, rtol=1e-3, atol=1e-4)


def test_works_inside_vmap_and_grad():
    x0 = start()

    def last(key, h):
        return samplers.run_chain(key, samplers.langevin(energy_fn, h), x0, 4)[0].x

    steps = jnp.array([0.1, 0.2])
    together = jax.vmap(last, in_axes=(None, 0))(KEY, steps)
    for k, h in enumerate(steps):
        assert_same(together[k], last(KEY, h), rtol=1e-5, atol=1e-6)

    def loss(theta):
        kernel = samplers.langevin(lambda x: theta * energy_fn(x), 0.1)
        return jnp.mean(samplers.run_chain(KEY, kernel, x0, 4)[0].x ** 2)

    slope = (loss(1.01) - loss(0.99)) / 0.02
    np.testing.assert_allclose(jax.grad(loss)(1.0), slope, rtol=1e-2)


class CountTraces:
    def __init__(self):
        self.count = 0

    def __call__(self, x):
        self.count += 1
        return energy_fn(x)


@pytest.mark.parametrize("make", [samplers.langevin, samplers.mala])
@pytest.mark.parametrize("jitted", [True, False])
def test_new_key_start_and_step_size_do_not_retrace(make, jitted):
    counted = CountTraces()

    def run(key, x, h):
        return samplers.run_chain(key, make(counted, h), x, 20)[0].x

    run = jax.jit(run) if jitted else run
    first = run(KEY, start(), 0.1)
    traces = counted.count
    for seed, h in ((1, 0.1), (2, 0.05), (3, 0.2)):
        other = run(jax.random.key(seed), start() + seed, h)
    assert counted.count == traces
    assert not np.array_equal(first, other)


def test_parameters_in_a_partial_are_inputs_not_constants():
    counted = CountTraces()

    def scaled(theta, x):
        return theta * counted(x)

    means, traces = [], []
    for theta in (1.0, 5.0, 25.0):
        kernel = samplers.mala(Partial(scaled, jnp.float32(theta)), 0.05)
        state, _ = samplers.run_chain(KEY, kernel, start(), 50)
        means.append(float(jnp.mean(state.x**2)))
        traces.append(counted.count)
    assert len(set(traces)) == 1
    assert means[0] > means[1] > 0


def test_thinned_runs_use_the_same_memory():
    kernel = KERNELS["mala"]

    def size(num_steps, keep_every):
        def run(key, x):
            return samplers.run_chain(key, kernel, x, num_steps, keep_every=keep_every)

        memory = jax.jit(run).lower(KEY, start(64)).compile().memory_analysis()
        return memory.temp_size_in_bytes, memory.output_size_in_bytes

    assert size(1_000, 50) == size(10_000, 500)
    assert size(1_000, None) == size(10_000, None)
    assert size(1_000, 1)[1] > 20 * size(1_000, 50)[1]


@pytest.mark.parametrize("name", ["mala", "tempering"])
def test_kept_states_and_blocks_agree_with_every_step(name):
    kernel, x0 = KERNELS[name], start(4)
    state, every = samplers.run_chain(KEY, kernel, x0, 6, keep_every=1)
    again, blocks = samplers.run_chain(KEY, kernel, x0, 6, keep_every=3, unroll=2)
    _, summary = samplers.run_chain(KEY, kernel, x0, 6)
    assert_same(again.x, state.x, rtol=1e-5, atol=1e-6)
    assert every.kept.shape == (6, 4, 3)
    assert blocks.kept.shape == (2, 4, 3)
    assert_same(every.kept[-1], state.x)
    assert_same(blocks.kept, every.kept[2::3], rtol=1e-5, atol=1e-6)
    for name in ("energy", "grad_norm"):
        assert_same(getattr(blocks, name), getattr(every, name)[2::3], rtol=1e-4, atol=1e-5)
        assert_same(getattr(summary, name), getattr(every, name)[-1], rtol=1e-4, atol=1e-5)
    mean = every.acceptance.reshape(2, 3, 4).mean(axis=1)
    assert_same(blocks.acceptance, mean, rtol=1e-5)
    assert_same(summary.acceptance, mean.mean(axis=0), rtol=1e-5)
    ends = np.concatenate([x0[None], every.kept[2::3]])
    apart = np.linalg.norm(np.diff(ends, axis=0), axis=2)
    assert_same(blocks.displacement, apart, rtol=1e-3, atol=1e-5)
    assert_same(summary.displacement, np.linalg.norm(state.x - x0, axis=1), rtol=1e-3, atol=1e-5)
    assert summary.kept is None


def loops(jaxpr):
    """(steps, how many of them are unrolled) of each loop in a program, the outer ones first."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append((equation.params["length"], equation.params["unroll"]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += loops(inner)
    return found


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [(11, 1)]),
        ({"num_steps": 1}, []),
        ({"num_steps": 1, "keep_every": 1}, []),
        ({"unroll": 3}, [(11, 3)]),
        ({"unroll": 3, "keep_every": 1}, [(11, 3)]),
        ({"unroll": 3, "keep_every": 6}, [(1, 1), (5, 3), (5, 3)]),
        ({"keep_every": 12}, [(11, 1)]),
    ],
)
def test_steps_are_unrolled_and_not_blocks(options, wanted):
    def run(x):
        return samplers.run_chain(KEY, KERNELS["langevin"], x, **{"num_steps": 12} | options)

    assert loops(jax.make_jaxpr(run)(start(2)).jaxpr) == wanted


def test_steps_of_a_schedule_are_unrolled():
    def run(x, **options):
        make = functools.partial(samplers.langevin, energy_fn)
        return samplers.run_schedule(KEY, make, jnp.array([0.1, 0.2]), x, 4, **options)

    assert loops(jax.make_jaxpr(run)(start(2)).jaxpr) == [(2, 1), (3, 1)]
    unrolled = jax.make_jaxpr(functools.partial(run, unroll=3))(start(2))
    assert loops(unrolled.jaxpr) == [(2, 1), (3, 3)]


def test_keep_chooses_what_is_kept():
    _, info = samplers.run_chain(
        KEY, KERNELS["mala"], start(4), 6, keep_every=2, keep=lambda s: (s.x[:, 0], s.energy)
    )
    first, energy = info.kept
    assert first.shape == energy.shape == (3, 4)
    _, plain = samplers.run_chain(KEY, KERNELS["mala"], start(4), 6, keep_every=2)
    assert_same(first, plain.kept[:, :, 0])
    assert_same(energy[0], energy_fn(plain.kept[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "expected num_steps to be a Python int >= 1, got 0"),
        ({"num_steps": 2.5}, "num_steps to be a Python int >= 1, got 2.5"),
        ({"num_steps": 10, "keep_every": 3}, "multiple of keep_every=3, such as 9, got 10"),
        ({"num_steps": 2, "keep_every": 3}, "multiple of keep_every=3, such as 3, got 2"),
        ({"num_steps": 4, "unroll": 0}, "unroll to be a Python int >= 1, got 0"),
    ],
)
def test_bad_counts(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.run_chain(KEY, KERNELS["mala"], start(), **options)


def test_a_state_cannot_be_renumbered():
    state, _ = samplers.run_chain(KEY, KERNELS["mala"], start(), 1)
    with pytest.raises(ValueError, match="expected fresh positions beside first_chain"):
        samplers.run_chain(KEY, KERNELS["mala"], state, 1, first_chain=4)


def test_a_remainder_goes_along_where_both_kernels_have_one():
    """Chains keep their numbers; a kernel without half types keeps no remainder."""
    kernel = samplers.langevin(lambda x: jnp.sum(x, axis=1), 0.1)
    x, chain = jnp.ones((2, 1), jnp.bfloat16), jnp.array([7, 3])
    without = samplers.Kernel(lambda x: kernel.init(x)._replace(remainder=None), kernel.step)
    remainder = jnp.array([[1e-3], [2e-3]])
    for made, given, wanted in (
        (kernel, remainder, remainder),
        (kernel, None, jnp.zeros((2, 1))),
        (without, remainder, None),
    ):
        found = restart(made, Chains(x, chain, given))
        np.testing.assert_array_equal(found.chain, chain)
        np.testing.assert_array_equal(found.remainder, wanted)
