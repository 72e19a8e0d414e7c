"""Recovery likelihood step by step: against the reference, and against float64 NumPy.

Both replay recorded noise through the objective itself: pair, chain, loss, every gradient.
"""

import itertools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from reference_files import assert_close, below, jit_once, load_reference, replay_noise

from ebm_jax import convert, parallel, samplers
from ebm_jax.diffusion import make_schedule, t6_schedule
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.base import Mean, ObjectiveState
from ebm_jax.samplers import random

KEY = jax.random.key(0)


def replay_draws(monkeypatch, level, noise, next_noise, chain_noise, num_pairs=6):
    """Gives the objective recorded draws: levels, the two noises of its pairs, its chain's."""
    replay_noise(monkeypatch, chain_noise)
    pair_noises = itertools.cycle([noise, next_noise])
    draws = types.SimpleNamespace(
        uniform=lambda *_: (jnp.asarray(level) + 0.5) / num_pairs,
        normal=lambda *_: jnp.asarray(next(pair_noises)),
    )
    monkeypatch.setattr(recovery, "random", draws)


class Evaluation(NamedTuple):
    """What one evaluation of the objective gave: y_neg is the end of its chain, grads are flat."""

    loss: jax.Array
    metrics: dict[str, Mean]
    y_neg: jax.Array
    power_state: dict[str, jax.Array]
    grads: dict[str, np.ndarray]


def evaluate(monkeypatch, objective, params, power_state, x) -> Evaluation:
    """Loss and gradients at data x, with the chain's end caught on its way."""
    ends, run_chain = [], samplers.run_chain

    def watched(*args, **options):
        state, info = run_chain(*args, **options)
        ends.append(state.x)
        return state, info

    monkeypatch.setattr(samplers, "run_chain", watched)

    def loss(params, power_state):
        batch = {"image": x}
        value, (state, metrics) = objective.loss(params, ObjectiveState(power_state), batch, KEY)
        return value, (metrics, ends[-1], state.power_state)

    (value, others), grads = jit_once(jax.value_and_grad(loss, has_aux=True))(params, power_state)
    return Evaluation(value, *others, plain.as_flat(grads))


# ---- the reference ----


@pytest.fixture(scope="module")
def reference():
    """(arrays, module, params, power state) of the published code's network."""
    arrays = load_reference("drl")
    converted = convert.from_reference("drl", below(arrays, "w"))
    module = converted.module.clone(image_size=arrays["x"].shape[1])
    return arrays, module, converted.params, converted.power_state


@pytest.fixture(scope="module")
def reference_step(reference):
    arrays, module, params, power_state = reference
    objective = recovery.recovery_likelihood(module, t6_schedule())
    with pytest.MonkeyPatch.context() as patch:
        replay_draws(patch, *(arrays[name] for name in ("t", "eps_t", "eps_t1", "langevin_noise")))
        return evaluate(patch, objective, params, power_state, arrays["x0"])


def test_reference_chain(reference, reference_step):
    """30 steps from x_{t+1}; the published code keeps x_t = y_t / multiplier_t."""
    arrays = reference[0]
    multiplier = t6_schedule().multiplier[arrays["t"]][:, None, None, None]
    assert_close(reference_step.y_neg / multiplier, arrays["x_neg"], 1e-4)


def test_reference_loss_and_displacement(reference, reference_step):
    arrays = reference[0]
    assert_close(reference_step.loss, arrays["loss"], 1e-4, "loss")
    mean = reference_step.metrics["displacement"]
    np.testing.assert_array_equal(mean.count, np.bincount(arrays["t"], minlength=6))
    assert_close(jnp.nan_to_num(mean.value()), arrays["disp"], 1e-4, "displacement")


def test_reference_gradients(reference, reference_step):
    wanted = {
        name.replace("level_", "resolution_").replace("/block", "_block"): array
        for name, array in below(reference[0], "grad").items()
    }
    assert reference_step.grads.keys() == wanted.keys()
    for name, array in wanted.items():
        assert_close(reference_step.grads[name], array, 1e-4, name)


def test_reference_progressive_chain(reference, monkeypatch):
    """180 steps, levels 5 to 0, every example at the same level."""
    arrays, module, params, power_state = reference
    schedule, noise = t6_schedule(), arrays["prog_noise"]
    num_steps = noise.shape[1]
    replay_noise(monkeypatch, noise.reshape(-1, *noise.shape[2:]))
    langevin = recovery.langevin_per_level(schedule)

    def make_kernel(energy_fn, level):  # a level's step n is step (5 - level) K + n of the record
        kernel = langevin(energy_fn, level)
        first = (5 - level) * num_steps
        return samplers.Kernel(kernel.init, lambda n, state: kernel.step(first + n, state))

    def sample(x):
        level_energy = recovery.network_level_energy(
            module, params, 1 / schedule.langevin_scale(2e-4), power_state=power_state
        )
        return recovery.progressive_sample(
            KEY, level_energy, schedule, x, make_kernel=make_kernel, num_steps=num_steps
        )

    assert_close(jit_once(sample)(arrays["prog_x"]), arrays["prog_out"], 1e-3)


# ---- NumPy ----

SMALL = RecoveryResNet(image_size=4, channels=2, width=4, multipliers=(1, 2), num_blocks=1)
LEVEL, NUM_STEPS, STEP_SCALE = np.array([0, 3, 5, 3]), 4, 2e-3


@pytest.fixture(scope="module")
def both():
    """(an evaluation of the objective, its weights, the loss in NumPy, y_neg and figures too)."""
    rng = np.random.default_rng(3)
    x, noise, next_noise = 0.5 * rng.normal(size=(3, 4, *SMALL.input_shape)).astype(np.float32)
    chain_noise = rng.normal(size=(NUM_STEPS, 4, *SMALL.input_shape)).astype(np.float32)
    weights = plain.random_weights(SMALL)
    u = {name: np.ones(weights[name].shape[-1]) for name in plain.normalized_names(weights)}
    objective = recovery.recovery_likelihood(
        SMALL, t6_schedule(), num_steps=NUM_STEPS, step_scale=STEP_SCALE
    )
    with pytest.MonkeyPatch.context() as patch:
        replay_draws(patch, LEVEL, 2 * noise, 2 * next_noise, chain_noise)
        power_state = {name: jnp.asarray(vector, jnp.float32) for name, vector in u.items()}
        ours = evaluate(patch, objective, plain.as_tree(weights), power_state, x)

    levels = plain.schedule(6)
    a_bar, sigma_bar = (levels[k][LEVEL][:, None, None, None] for k in ("a_bar", "sigma_bar"))
    a, sigma = (levels[k][LEVEL + 1][:, None, None, None] for k in ("a", "sigma"))
    x_t = a_bar * x + sigma_bar * 2 * noise
    x_noisy = a * x_t + sigma * 2 * next_noise
    multiplier = plain.multiplier(levels)[LEVEL][:, None, None, None]
    y_pos = multiplier * x_t

    def network(weights):
        normalized = plain.normalize(weights, u)
        return lambda x, level: plain.network(
            normalized, x, level, multipliers=(1, 2), num_blocks=1
        )

    y_neg = plain.recovery_chain(network(weights), levels, STEP_SCALE, x_noisy, LEVEL, chain_noise)

    def loss(weights):
        return plain.recovery_loss(network(weights), levels, y_pos, y_neg, LEVEL)

    figures = {
        "energy_pos": network(weights)(y_pos, LEVEL),
        "energy_neg": network(weights)(y_neg, LEVEL),
        "displacement": np.sqrt(np.sum((y_neg / multiplier - x_noisy) ** 2, axis=(1, 2, 3))),
    }
    weight = levels["sigma"][1] / levels["sigma"][1:][LEVEL]
    figures["level_loss"] = weight * (figures["energy_pos"] - figures["energy_neg"])
    return ours, weights, loss, y_neg, figures


def test_chain_and_loss_are_the_equations(both):
    ours, weights, loss, y_neg, _ = both
    assert_close(ours.y_neg, y_neg, 1e-5, "y_neg")
    np.testing.assert_allclose(ours.loss, loss(weights), rtol=1e-4)


def test_gradients_are_the_equations(both):
    """With vectors u far from converged, so that what is held constant shows."""
    ours, weights, loss, _, _ = both
    plain.assert_same_slopes(ours.grads, loss, weights, 1e-4)


def test_metrics_are_means_per_level(both):
    ours, _, _, _, figures = both
    members = LEVEL[:, None] == np.arange(6)
    assert ours.metrics.keys() == {*figures, "chain_grad_norm"}
    for name, values in figures.items():
        mean = ours.metrics[name]
        np.testing.assert_array_equal(mean.count, members.sum(axis=0))
        wanted = values @ members / np.where(members.any(axis=0), members.sum(axis=0), np.nan)
        np.testing.assert_allclose(mean.value(), wanted, rtol=2e-4, err_msg=name)


def test_power_state_moves_by_one_iteration(both):
    ours, weights, _, _, _ = both
    for name, new_u in ours.power_state.items():
        matrix = weights[name].reshape(-1, weights[name].shape[-1]).astype(np.float64)
        wanted = np.ones(matrix.shape[1]) @ matrix.T @ matrix
        np.testing.assert_allclose(new_u, wanted / np.linalg.norm(wanted), atol=1e-5, err_msg=name)


# ---- what must not matter ----

MLP = EnergyMLP(input_size=2, width=8, depth=1)


@pytest.fixture(scope="module")
def small():
    """(objective, params) on the plane, three levels."""
    objective = recovery.recovery_likelihood(MLP, make_schedule(3), num_steps=3, step_scale=1e-2)
    return objective, plain.as_tree(plain.random_weights(MLP))


def test_a_batch_in_parts_is_the_batch(small):
    """Each example's level, noises and chain depend on its place in the whole batch alone."""
    objective, params = small
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

    @jit_once
    def loss(x, index):
        batch = {"image": x, "index": index}
        value, (_, metrics) = objective.loss(params, ObjectiveState(), batch, KEY)
        return value, metrics

    whole, whole_metrics = loss(x, jnp.arange(6))
    parts = [loss(x[i : i + 3], jnp.arange(i, i + 3)) for i in (0, 3)]
    np.testing.assert_allclose(whole, (parts[0][0] + parts[1][0]) / 2, rtol=1e-5)
    summed = jax.tree.map(jnp.add, parts[0][1], parts[1][1])
    for name, mean in whole_metrics.items():
        np.testing.assert_allclose(mean, summed[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_samples_do_not_depend_on_how_they_are_batched(small):
    objective, params = small
    sample = jax.jit(objective.sample, static_argnums=2)
    whole = sample(KEY, params, 8)
    parts = [sample(KEY, params, 4, first_sample=first) for first in (0, 4)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5, atol=1e-6)
    spread = parallel.make_sampler(objective, 8)(KEY, params)  # one on each of eight devices
    np.testing.assert_allclose(whole, spread, rtol=1e-5, atol=1e-6)
    assert len(np.unique(whole, axis=0)) == 8


def test_trajectory_goes_from_noise_to_the_samples(small):
    objective, params = small
    last, trajectory = jit_once(
        lambda key: objective.sample(key, params, 2_000, keep_trajectory=True)
    )(KEY)
    assert trajectory.shape == (4, 2_000, 2)
    np.testing.assert_array_equal(trajectory[-1], last)
    # x_T is standard normal; each later level is another one
    assert abs(trajectory[0].mean()) < 4 / np.sqrt(4_000)
    assert abs(trajectory[0].var() - 1) < 4 * np.sqrt(2 / 4_000)
    assert all(np.abs(np.diff(trajectory, axis=0)).mean(axis=(1, 2)) > 1e-3)


def test_largest_uniform_number_is_below_one(monkeypatch):
    """At exactly 1 the objective would draw level T, which has no pair."""
    monkeypatch.setattr(random, "_words", lambda *_: jnp.full((1, 1), 2**32 - 1, jnp.uint32))
    uniform = random.uniform(KEY, jnp.arange(1), ())
    assert uniform[0] < 1
    for num_pairs in (1, 6, 501, 1000):
        assert jnp.floor(num_pairs * uniform)[0] == num_pairs - 1


@pytest.mark.parametrize("fields", [{"num_steps": -1}, {"step_scale": 0.0}, {"step_scale": -1.0}])
def test_no_steps_or_no_scale_is_refused(fields):
    with pytest.raises(ValueError, match="write at least 1 step, or 0 for one draw, and a pos"):
        recovery.recovery_likelihood(MLP, t6_schedule(), **fields)
