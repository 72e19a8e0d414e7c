"""The train step: closed forms, one set of numbers on any devices, no retrace, one sum."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_runs import (
    EMA_DECAY,
    KEY,
    NUM_UPDATES,
    OPTIMIZERS,
    RATE,
    NoisyLeastSquares,
    batches,
    recovery,
    replay,
    toy,
)

from ebm_jax import parallel
from ebm_jax.methods import RecoveryLikelihood
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.training import device_state
from ebm_jax.training.state import TrainState
from ebm_jax.training.train_step import make_train_step

NUM_DEVICES = 8


# ---- closed forms ----


def test_updates_average_and_metrics_in_closed_form():
    step, state = toy(noise=0.0, preprocess=None)
    step, w = jax.jit(step), np.array([1.0, -2.0, 3.0])
    ema = w
    for n, batch in enumerate(batches()):
        state, metrics = step(state, batch)
        x = batch["image"].astype(np.float64)
        losses, gradient = 0.5 * np.sum((w - x) ** 2, axis=1), w - x.mean(axis=0)
        w = w - RATE * gradient
        ema = EMA_DECAY * ema + (1 - EMA_DECAY) * w
        right = x[:, 0] > 0
        wanted = {
            "loss": losses.mean(),
            "all": losses.mean(),
            "group": [losses[~right].mean(), losses[right].mean(), np.nan],
            "grad_norm": np.linalg.norm(gradient),
            "update_norm": RATE * np.linalg.norm(gradient),
            "param_norm": np.linalg.norm(w),
            "finite_so_far": True,
        }
        assert metrics.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema_params["w"], ema, rtol=1e-5)
        assert (state.step, state.attempt) == (n + 1, 0)


def test_draws_change_with_the_step_and_the_attempt_and_repeat():
    step, state = toy()
    step, batch = jax.jit(step), batches()[0]

    def loss(n, attempt):
        moved = state._replace(step=jnp.int32(n), attempt=jnp.int32(attempt))
        return float(step(moved, batch)[1]["loss"])

    assert len({loss(n, attempt) for n in (0, 1) for attempt in (0, 1, 2)}) == 6
    assert loss(0, 0) == loss(0, 0)


@pytest.mark.parametrize("overflows_in", ["image", "params"])
def test_one_step_that_is_not_finite_is_told_ever_after(overflows_in):
    """Adam's second moment is infinite after one overflow; its updates are then 0, and finite."""
    step, state = toy("adam", noise=0.0, preprocess=None)
    step, told = jax.jit(step), []
    for n, batch in enumerate(batches(4)):
        image = batch["image"]
        if n == 1 and overflows_in == "image":
            image = 1e25 * image
        if n == 1 and overflows_in == "params":
            state = state._replace(params={"w": 1e25 * state.params["w"]})
        state, metrics = step(state, {"image": image})
        if n == 1:
            state = state._replace(params={"w": jnp.ones(3)})
        told.append((bool(metrics["finite_so_far"]), bool(jnp.isfinite(metrics["loss"]))))
    assert told == [(True, True), (False, False), (False, True), (False, True)]
    assert metrics["update_norm"] == 0
    assert not state.finite_so_far


def test_no_retrace_and_the_states_memory_is_reused(caplog):
    chex.clear_trace_counter()
    step, state = toy("clipped adam")
    step = device_state.pmap_train_step(chex.assert_max_traces(step, n=1))
    state = device_state.to_devices(jax.device_get(state))
    for n, batch in enumerate(batches()):
        given, batch = state, {"image": batch["image"].reshape(NUM_DEVICES, -1, 3)}
        with jax.log_compiles():
            state, _ = step(given, batch)
        compiled = "Finished XLA compilation" in caplog.text
        assert compiled == (n == 0)  # nor compiled again for a state that lies elsewhere
        caplog.clear()
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert parallel.first_replica(state).step == NUM_UPDATES
    for leaf in jax.tree.leaves(state):  # each device has seen the examples of all
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[0], leaf.shape))


# ---- the ways to run a step ----


def run_jit(step, state: TrainState):
    step, metrics = jax.jit(step), None
    for batch in batches():
        state, metrics = step(state, batch)
    assert step._cache_size() == 1  # the state has the same types and places after a step
    return jax.device_get((state, metrics))


def compile_pmap(step, state, num_devices):
    """(compiled step, its state), without optimising what runs three times."""
    step = jax.pmap(
        functools.partial(step, axis_name="batch"),
        axis_name="batch",
        devices=jax.devices()[:num_devices],
    )
    state = jax.tree.map(lambda a: jnp.stack([a] * num_devices), state)
    batch = {"image": batches()[0]["image"].reshape(num_devices, -1, 3)}
    return step.lower(state, batch).compile({"xla_backend_optimization_level": 0}), state


def run_pmap(step, state, num_devices):
    metrics = None
    for batch in batches():
        state, metrics = step(state, {"image": batch["image"].reshape(num_devices, -1, 3)})
    for leaf in jax.tree.leaves((state, metrics)):  # every device holds the same
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[0], leaf.shape))
    return jax.device_get(jax.tree.map(lambda a: a[0], (state, metrics)))


def run_shard_map(step, state):
    """check_vma=False: with it JAX sums the gradients over the devices, and the step does again."""
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    everywhere, shared = PartitionSpec(), PartitionSpec("batch")
    step = jax.shard_map(
        functools.partial(step, axis_name="batch"),
        mesh=mesh,
        in_specs=(everywhere, shared),
        out_specs=everywhere,
        check_vma=False,
    )
    return run_jit(step, jax.device_put(state, NamedSharding(mesh, everywhere)))


def assert_same(actual, wanted, tolerance=2e-6):
    """States within `tolerance` of each other, metrics within float summation."""
    chex.assert_trees_all_close(actual[0], wanted[0], atol=tolerance, rtol=tolerance)
    chex.assert_trees_all_close(actual[1], wanted[1], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def on_one():
    """(make, optimizer) -> (state, metrics) after three updates under plain jit."""
    return functools.cache(lambda make, optimizer: run_jit(*make(optimizer)))


@pytest.fixture(scope="module")
def recovery_on_eight():
    return compile_pmap(*recovery(), NUM_DEVICES)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "clipped adam"])
def test_same_numbers_on_any_number_of_devices(on_one, optimizer, num_devices):
    """Plain SGD among them: Adam would hide a gradient that is a multiple of the right one."""
    step, state = compile_pmap(*toy(optimizer), num_devices)
    assert_same(run_pmap(step, state, num_devices), on_one(toy, optimizer))


def test_same_numbers_under_shard_map(on_one):
    assert_same(run_shard_map(*toy()), on_one(toy, "sgd"))


def test_recovery_likelihood_is_the_same_on_eight_devices(on_one, recovery_on_eight):
    assert_same(run_pmap(*recovery_on_eight, NUM_DEVICES), on_one(recovery, "sgd"))


def test_recovery_likelihood_is_the_same_under_shard_map(on_one):
    assert_same(run_shard_map(*recovery()), on_one(recovery, "sgd"))


@pytest.mark.parametrize(("make", "num_parts"), [(toy, 4), (recovery, 2), (replay, 8)])
def test_same_numbers_in_parts(on_one, make, num_parts):
    """Means over levels, vectors of the norm and the rings of a buffer among them."""
    assert_same(run_jit(*make(num_parts=num_parts)), on_one(make, "sgd"))


def test_a_part_at_a_time_is_on_the_device():
    """All examples by default."""
    state = toy()[1]
    for options, size in (({}, 16), ({"num_parts": 1}, 16), ({"num_parts": 2}, 8)):
        seen = set()

        class Seen(NoisyLeastSquares):
            def loss(self, params, method_state, batch, rng_key, seen=seen):
                seen.add((batch["image"].shape, batch["index"].shape))
                return super().loss(params, method_state, batch, rng_key)

        step = make_train_step(
            Seen(0.1), OPTIMIZERS["sgd"], rng_key=KEY, ema_decay=EMA_DECAY, **options
        )
        jax.eval_shape(step, state, batches()[0])
        assert seen == {((size, 3), (size,))}


def test_parts_on_devices(on_one):
    step, state = compile_pmap(*toy(num_parts=4), 2)
    assert_same(run_pmap(step, state, 2), on_one(toy, "sgd"))


# ---- what a compiled step contains ----


def count_executed(hlo: str, operation: str) -> int:
    """How often a run of a compiled module executes an operation, each trip of a loop counted."""
    bodies, name, entry = {}, None, None
    for line in hlo.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header:
            name = header[2]
            bodies[name] = []
            entry = name if header[1] else entry
        elif name:
            bodies[name].append(line)

    @functools.cache
    def count(name: str) -> int:
        total = 0
        for line in bodies[name]:
            total += bool(re.search(rf" {operation}(-start)?\(", line))
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for called in re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line):
                total += count(called) * (int(trips[1]) if trips else 1)
        return total

    return count(entry)


def test_one_sum_over_devices_per_step(recovery_on_eight):
    hlo = recovery_on_eight[0].as_text()
    assert count_executed(hlo, "all-reduce") == 1
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert count_executed(hlo, other) == 0, other


@pytest.mark.parametrize("num_steps", [1, 6])
def test_a_chain_of_k_steps_costs_k_gradients(num_steps):
    """Convolutions in the compiled loss and its gradient: three layers, forwards and backwards.

    A gradient of the energy in x costs 6. The loss costs 3 forwards, 3 for the kernels' gradients
    and 2 backwards (none to the images). The published code computes K + 1 gradients.
    """
    module = RecoveryResNet(
        image_size=4, channels=1, width=4, multipliers=(1,), num_blocks=1, formulation="native"
    )
    method = RecoveryLikelihood(module, num_pairs=3, num_steps=num_steps)
    params = plain.as_tree(plain.random_weights(module))
    batch = {"image": jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)}
    _, state = jax.eval_shape(method.init, KEY, batch)
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    hlo = step.lower(params, state, batch, KEY).compile().as_text()
    assert count_executed(hlo, "convolution") == 6 * num_steps + 8
