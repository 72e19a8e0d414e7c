"""Rollouts and their errors, against linear systems whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ebm_jax.data.simulators import linear_gaussian
from ebm_jax.evaluation.trajectories import errors
from ebm_jax.evaluation.trajectories.next_state import next_state_predictor
from ebm_jax.evaluation.trajectories.rollout import repeat_last, rollout
from ebm_jax.networks import EnergyMLP
from ebm_jax.networks.conditional_mlp import ConditionalMLP
from ebm_jax.networks.ensemble import Ensemble

LENGTH, NUMBER = 10, 20_000


NONE = jnp.zeros((NUMBER, LENGTH - 1, 0))  # actions


def distance(mean_a, covariance_a, mean_b, covariance_b):
    """By matrix square roots, which the package does not take."""
    root = scipy.linalg.sqrtm(covariance_a)
    overlap = np.trace(np.real(scipy.linalg.sqrtm(root @ covariance_b @ root)))
    squared = np.sum((mean_a - mean_b) ** 2)
    return squared + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap


def test_frechet_distance_of_linear_systems_in_closed_form():
    """Another system of another start, transition and noise; n so large that the bias is small."""
    here = linear_gaussian.SYSTEM
    there = linear_gaussian.LinearSystem(
        np.array([1.0, 1.0]), np.diag([0.2, 0.4]), 0.9 * np.eye(2), 0.1 * np.eye(2)
    )
    rng = np.random.default_rng(0)
    a, b = (linear_gaussian.simulate(rng, NUMBER, LENGTH, system=s) for s in (here, there))
    exact = [
        distance(*one, *other)
        for one, other in zip(
            zip(*linear_gaussian.moments(LENGTH, system=here), strict=True),
            zip(*linear_gaussian.moments(LENGTH, system=there), strict=True),
            strict=True,
        )
    ]
    found = errors.frechet_per_step(a, b)
    # The distance is about |m_a - m_b|^2, whose standard error is 2 |m_a - m_b| sqrt(2 v / n).
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=0.01)
    assert max(exact) > 2 * min(exact)
    np.testing.assert_allclose(errors.frechet_per_step(a, a), 0, atol=1e-9)


def test_rollout_has_the_moments_of_the_system():
    """From the true first frame, next states drawn from the true conditional: no distance left."""
    system = linear_gaussian.SYSTEM
    true = linear_gaussian.simulate(np.random.default_rng(0), NUMBER, LENGTH)
    root = jnp.asarray(np.linalg.cholesky(system.noise), jnp.float32)
    transition = jnp.asarray(system.transition, jnp.float32)

    def next_state(t, context):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), t), context.shape)
        return context @ transition.T + noise @ root.T

    first = jnp.asarray(true[:, 0], jnp.float32)
    found = np.asarray(jax.jit(functools.partial(rollout, next_state))(first, NONE))
    assert found.shape == (NUMBER, 9, 2)
    means, covariances = linear_gaussian.moments(LENGTH)
    for t in range(9):
        fitted = found[:, t].mean(0), np.cov(found[:, t].T)
        assert distance(*fitted, means[t + 1], covariances[t + 1]) < 1e-3
    assert errors.frechet_per_step(found, true[:, 1:]).max() < 1e-3
    repeated = rollout(functools.partial(repeat_last, size=2), first, NONE)
    np.testing.assert_array_equal(repeated, np.repeat(np.asarray(first)[:, None], 9, axis=1))
    exact = [distance(means[0], covariances[0], means[t], covariances[t]) for t in range(1, LENGTH)]
    # Start and state are correlated, as the trajectories are the same; the moments are not.
    np.testing.assert_allclose(
        errors.frechet_per_step(np.asarray(repeated), true[:, 1:]), exact, rtol=0.03, atol=0.01
    )


def test_the_context_moves_on():
    """Two frames: x_t = x_{t-1} + x_{t-2}, of vectors."""
    context = jnp.array([[0.0, 10.0, 1.0, 10.0]])
    found = rollout(lambda t, c: c[:, :2] + c[:, 2:], context, jnp.zeros((1, 6, 0)))
    np.testing.assert_array_equal(found[0, :, 0], [1, 2, 3, 5, 8, 13])
    np.testing.assert_array_equal(found[0, :, 1], [20, 30, 50, 80, 130, 210])
    times = rollout(lambda t, c: jnp.full((1, 2), t), context, jnp.zeros((1, 3, 0)))
    np.testing.assert_array_equal(times[0, :, 0], [0, 1, 2])


def test_actions_come_with_their_states():
    """x_t = x_{t-1} + a_t: sums of the actions so far, as the label is (action, context)."""
    actions = jnp.array([[[1.0], [2.0], [4.0]], [[1.0], [0.0], [-1.0]]])
    found = rollout(lambda t, label: label[:, :1] + label[:, 2:], jnp.zeros((2, 2)), actions)
    np.testing.assert_array_equal(found[..., 0], [[1, 3, 7], [1, 1, 0]])


def test_spectral_norm_of_the_predictor():
    """Its largest slope is the product of its layers', each of norm 1, with weights of any size."""
    network = ConditionalMLP(input_size=3, label_size=3, width=6, depth=1)
    predictor = next_state_predictor(network, has_norm=True)
    batch = {"image": jnp.ones((2, 3)), "label": jnp.ones((2, 3))}
    params, state = jax.jit(predictor.init)(jax.random.key(0), batch)
    assert sorted(state.shared) == ["hidden_0/kernel", "next_state/kernel"]
    large = jax.tree.map(lambda leaf: 50 * leaf, params)
    kernels = [
        np.asarray(params[name]["kernel"], np.float64) for name in ("hidden_0", "next_state")
    ]
    first, second = (kernel / np.linalg.norm(kernel, 2) for kernel in kernels)
    x = np.random.default_rng(0).normal(size=(40, 3))
    hidden = x @ first
    by_hand = np.where(hidden > 0, hidden, 0.2 * hidden) @ second
    predict = jax.jit(predictor.predict)
    np.testing.assert_allclose(predict(large, jnp.asarray(x, jnp.float32)), by_hand, atol=1e-5)
    # In training by one power iteration from the state, which is iterated.
    loss, (after, _) = jax.jit(predictor.loss)(large, state, batch, jax.random.key(1))
    assert np.isfinite(loss)
    assert all(np.any(after.shared[name] != u) for name, u in state.shared.items())
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, params, large))


def test_squared_error():
    true, predicted = np.zeros((3, 2)), np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 0.0]])
    found = errors.squared_error(predicted, true)
    assert found.mean == pytest.approx((5 + 0 + 2) / 3)
    assert found.standard_error == pytest.approx(np.std([5, 0, 2], ddof=1) / np.sqrt(3))
    two = errors.squared_error(predicted[:2], true[:2])
    assert two == pytest.approx((2.5, 2.5))  # 5 and 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="expected states of one shape"):
        errors.frechet_per_step(np.zeros((9, 3, 2)), np.zeros((9, 4, 2)))
    with pytest.raises(ValueError, match=r"rollout.num_trajectories: 3 examples leave"):
        errors.check_number(3, 4)
    with pytest.raises(ValueError, match="EnergyMLP is no conditional_mlp"):
        next_state_predictor(EnergyMLP())


def test_predictor_is_of_the_energys_layers_and_is_fitted_to_the_mean():
    network = ConditionalMLP(input_size=2, label_size=4, width=5, depth=2)
    predictor = next_state_predictor(Ensemble(network, 3))
    assert predictor != next_state_predictor(Ensemble(network, 3))  # as methods, by identity
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.normal(size=(6, 2)), jnp.float32),
        "label": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
    }
    params, state = jax.jit(predictor.init)(jax.random.key(0), batch)
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes["hidden_0"]["kernel"] == (4, 5)
    assert shapes["hidden_1"]["kernel"] == (5, 5)
    assert shapes["next_state"]["kernel"] == (5, 2)
    loss, (_, metrics) = jax.jit(predictor.loss)(params, state, batch, jax.random.key(1))
    params = jax.tree.map(np.asarray, params)
    hidden = np.asarray(batch["label"], np.float64)
    for name in ("hidden_0", "hidden_1"):
        hidden = hidden @ params[name]["kernel"] + params[name]["bias"]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    by_hand = hidden @ params["next_state"]["kernel"] + params["next_state"]["bias"]
    assert loss == pytest.approx(np.mean((np.asarray(batch["image"]) - by_hand) ** 2), rel=1e-5)
    assert metrics["squared_error"].value() == pytest.approx(float(loss), rel=1e-5)
