"""Recovery likelihood step by step: against the reference, and against float64 NumPy.

Both replay recorded noise through the method itself: pair, chain, loss, every gradient.
"""

import itertools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from flax import linen as nn
from gaussian_levels import A_BAR, CURVATURE, MEAN, MULTIPLIER, SCHEDULE, SIGMA_BAR, VARIANCE
from reference_files import assert_close, below, load_reference, replay_noise

from ebm_jax import convert, samplers
from ebm_jax.diffusion import t6_schedule
from ebm_jax.methods import Mean, MethodState, RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood import loss as pure_loss
from ebm_jax.methods.recovery_likelihood import transitions
from ebm_jax.methods.recovery_likelihood.transitions import Transition
from ebm_jax.networks import EnergyMLP, RecoveryResNet
from ebm_jax.samplers import random

KEY = jax.random.key(0)


def replay_training_noise(monkeypatch, level, noise, next_noise, chain_noise, num_pairs=6):
    """Gives the method recorded noise: levels, the two noises of its pairs, its chain's."""
    replay_noise(monkeypatch, chain_noise)
    pair_noises = itertools.cycle([noise, next_noise])
    recorded = types.SimpleNamespace(
        uniform=lambda *_: (jnp.asarray(level) + 0.5) / num_pairs,
        normal=lambda *_: jnp.asarray(next(pair_noises)),
    )
    monkeypatch.setattr(pure_loss, "random", recorded)


class Evaluation(NamedTuple):
    """One evaluation of the loss: y_neg is the end of its chain, grads are flat."""

    loss: jax.Array
    metrics: dict[str, Mean]
    y_neg: jax.Array
    power_state: dict[str, jax.Array]
    grads: dict[str, np.ndarray]


def evaluate(monkeypatch, method, params, power_state, x) -> Evaluation:
    """Loss and gradients at data x, with the chain's end caught on its way."""
    ends, run_chain = [], samplers.run_chain

    def watched(*args, **options):
        state, info = run_chain(*args, **options)
        ends.append(state.x)
        return state, info

    monkeypatch.setattr(samplers, "run_chain", watched)

    def loss(params, power_state):
        batch = {"image": x}
        value, (state, metrics) = method.loss(params, MethodState(power_state), batch, KEY)
        return value, (metrics, ends[-1], state.shared)

    (value, others), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, power_state)
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
    method = RecoveryLikelihood(module)
    with pytest.MonkeyPatch.context() as patch:
        replay_training_noise(
            patch, *(arrays[name] for name in ("t", "eps_t", "eps_t1", "langevin_noise"))
        )
        return evaluate(patch, method, params, power_state, arrays["x0"])


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


# ---- NumPy ----

SMALL = RecoveryResNet(image_size=4, channels=2, width=4, multipliers=(1, 2), num_blocks=1)
LEVEL, NUM_STEPS, STEP_SCALE = np.array([0, 3, 5, 3]), 4, 2e-3


@pytest.fixture(scope="module")
def both():
    """(an evaluation, its weights, the loss in NumPy, y_neg and the metrics too)."""
    rng = np.random.default_rng(3)
    x, noise, next_noise = 0.5 * rng.normal(size=(3, 4, *SMALL.input_shape)).astype(np.float32)
    chain_noise = rng.normal(size=(NUM_STEPS, 4, *SMALL.input_shape)).astype(np.float32)
    weights = plain.random_weights(SMALL)
    u = {name: np.ones(weights[name].shape[-1]) for name in plain.normalized_names(weights)}
    method = RecoveryLikelihood(SMALL, num_steps=NUM_STEPS, step_scale=STEP_SCALE)
    with pytest.MonkeyPatch.context() as patch:
        replay_training_noise(patch, LEVEL, 2 * noise, 2 * next_noise, chain_noise)
        power_state = {name: jnp.asarray(vector, jnp.float32) for name, vector in u.items()}
        ours = evaluate(patch, method, plain.as_tree(weights), power_state, x)

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

    values = {
        "energy_pos": network(weights)(y_pos, LEVEL),
        "energy_neg": network(weights)(y_neg, LEVEL),
        "displacement": np.sqrt(np.sum((y_neg / multiplier - x_noisy) ** 2, axis=(1, 2, 3))),
    }
    weight = levels["sigma"][1] / levels["sigma"][1:][LEVEL]
    values["level_loss"] = weight * (values["energy_pos"] - values["energy_neg"])
    return ours, weights, loss, y_neg, values


def test_chain_and_loss_are_the_equations(both):
    ours, weights, loss, y_neg, _ = both
    assert_close(ours.y_neg, y_neg, 1e-5, "y_neg")
    np.testing.assert_allclose(ours.loss, loss(weights), rtol=1e-4)


def test_gradients_are_the_equations(both):
    """With vectors u far from converged, so that what is held constant shows."""
    ours, weights, loss, _, _ = both
    plain.assert_same_slopes(ours.grads, loss, weights, 1e-4)


def test_metrics_are_means_per_level(both):
    ours, _, _, _, values = both
    members = LEVEL[:, None] == np.arange(6)
    assert ours.metrics.keys() == {*values, "chain_grad_norm"}
    for name, array in values.items():
        mean = ours.metrics[name]
        np.testing.assert_array_equal(mean.count, members.sum(axis=0))
        wanted = array @ members / np.where(members.any(axis=0), members.sum(axis=0), np.nan)
        np.testing.assert_allclose(mean.value(), wanted, rtol=2e-4, err_msg=name)


def test_power_state_moves_by_one_iteration(both):
    ours, weights, _, _, _ = both
    for name, new_u in ours.power_state.items():
        matrix = weights[name].reshape(-1, weights[name].shape[-1]).astype(np.float64)
        wanted = np.ones(matrix.shape[1]) @ matrix.T @ matrix
        np.testing.assert_allclose(new_u, wanted / np.linalg.norm(wanted), atol=1e-5, err_msg=name)


# ---- what must not matter ----


def test_a_batch_in_parts_is_the_batch():
    """Each example's level, noises and chain depend on its index in the whole batch alone."""
    network = EnergyMLP(input_size=2, width=8, depth=1)
    method = RecoveryLikelihood(network, num_pairs=3, num_steps=3, step_scale=1e-2)
    params = plain.as_tree(plain.random_weights(network))
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

    @jax.jit
    def loss(x, index):
        batch = {"image": x, "index": index}
        value, (_, metrics) = method.loss(params, MethodState(), batch, KEY)
        return value, metrics

    whole, whole_metrics = loss(x, jnp.arange(6))
    parts = [loss(x[i:end], jnp.arange(i, end)) for i, end in ((0, 5), (5, 6))]
    np.testing.assert_allclose(whole, (5 * parts[0][0] + parts[1][0]) / 6, rtol=1e-5)
    summed = jax.tree.map(jnp.add, parts[0][1], parts[1][1])
    for name, mean in whole_metrics.items():
        np.testing.assert_allclose(mean, summed[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_largest_uniform_number_is_below_one(monkeypatch):
    """At exactly 1 the loss would take level T, which has no pair."""
    monkeypatch.setattr(random, "_words", lambda *_: jnp.full((1, 1), 2**32 - 1, jnp.uint32))
    uniform = random.uniform(KEY, jnp.arange(1), ())
    assert uniform[0] < 1
    for num_pairs in (1, 6, 501, 1000):
        assert jnp.floor(num_pairs * uniform)[0] == num_pairs - 1


# ---- the loss at the truth ----


class GaussianModel(nn.Module):
    """E(y, t) = s_t^2 f*_t(y) for data N(mean, exp(log_variance)), both of them parameters."""

    step_scale: float

    @property
    def input_shape(self):
        return (1,)

    @nn.compact
    def __call__(self, y, level):
        mean = self.param("mean", nn.initializers.constant(MEAN), ())
        log_variance = self.param("log_variance", nn.initializers.constant(np.log(VARIANCE)), ())
        a_bar, sigma_bar, multiplier = (
            jnp.asarray(v, jnp.float32)[level] for v in (A_BAR, SIGMA_BAR, MULTIPLIER)
        )
        variance = multiplier**2 * (a_bar**2 * jnp.exp(log_variance) + sigma_bar**2)
        log_density = -((y[:, 0] - multiplier * a_bar * mean) ** 2) / (2 * variance)
        return -SCHEDULE.langevin_scale(self.step_scale)[level] * log_density


@pytest.fixture(scope="module")
def gradients():
    """(params -> parameter gradients of 128 batches of 256) with exact posterior samples."""
    curvature = jnp.asarray(CURVATURE, jnp.float32)

    def exact(schedule, **_):  # on a quadratic, one step of size 1 / L at temperature 1/2
        def make_kernel(energy_fn, level):
            return samplers.langevin(energy_fn, 1 / curvature[level], temperature=0.5)

        return Transition(make_kernel, 1)

    method = RecoveryLikelihood(GaussianModel(2e-4))

    def one_batch(params, rng_key):
        data_key, loss_key = jax.random.split(rng_key)
        x = MEAN + np.sqrt(VARIANCE) * jax.random.normal(data_key, (256, 1))
        loss = lambda p: method.loss(p, MethodState(), {"image": x}, loss_key)[0]  # noqa: E731
        return jax.grad(loss)(params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "langevin_transition", exact)
        yield jax.jit(
            lambda params: jax.vmap(one_batch, (None, 0))(params, jax.random.split(KEY, 128))
        )


TRUTH = {"mean": jnp.float32(MEAN), "log_variance": jnp.float32(np.log(VARIANCE))}


def in_standard_errors(values):
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values))))


def test_expected_gradient_is_zero_at_the_truth(gradients):
    for name, values in gradients(TRUTH).items():
        assert abs(in_standard_errors(values)) < 4, name


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_gradient_points_back_to_the_truth(gradients, shift):
    moved = gradients({**TRUTH, "mean": TRUTH["mean"] + shift})
    assert in_standard_errors(np.sign(shift) * moved["mean"]) > 6
