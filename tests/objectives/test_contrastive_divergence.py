"""Contrastive divergence on energies whose trained parameter, and every term, is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_modes
from flax import linen as nn
from reference_files import jit_once
from scipy.optimize import brentq

from ebm_jax import samplers
from ebm_jax.networks.igebm import IgebmResNet
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.objectives import contrastive_divergence as cd

KEY = jax.random.key(0)


class Quadratic(nn.Module):
    """E(x) = theta |x|^2 / 2 in one dimension."""

    input_shape = (1,)

    @nn.compact
    def __call__(self, x, condition=None):
        theta = self.param("theta", nn.initializers.constant(2.0), ())
        return 0.5 * theta * jnp.sum(x**2, axis=-1)


class PerClass(nn.Module):
    """E(x, y) = (x - centre_y)^2 / 2 with fixed centres 0, 1, 2, .. and a trained offset."""

    num_classes: int = 3
    input_shape = (1,)

    @nn.compact
    def __call__(self, x, condition=None):
        offset = self.param("offset", nn.initializers.zeros, ())
        return 0.5 * (x[:, 0] - condition) ** 2 + offset


# ---- METHODS 5c: where training lands with chains of K steps ----

DATA_VARIANCE, NOISE_VARIANCE, STEP_VARIANCE = 0.25, 1.0, 0.02  # v, u, s^2


def predicted_theta(num_steps, fresh_share):
    """theta at which chain ends have variance v if a share starts from noise, the rest from v."""

    def excess(theta):
        a = 1 - STEP_VARIANCE * theta / 2
        start = fresh_share * NOISE_VARIANCE + (1 - fresh_share) * DATA_VARIANCE
        added = STEP_VARIANCE * (1 - a ** (2 * num_steps)) / (1 - a**2)
        return a ** (2 * num_steps) * start + added - DATA_VARIANCE

    return brentq(excess, 0.1, 50.0)


@functools.cache
def trained_theta(starts, num_steps, num_updates=600, batch_size=1024):
    """theta after stochastic approximation, averaged over the last two thirds."""
    kernel = functools.partial(samplers.langevin, step_size=STEP_VARIANCE / 2)
    half_width = np.sqrt(3 * NOISE_VARIANCE)
    objective = cd.contrastive_divergence(
        Quadratic(),
        kernel,
        num_steps=num_steps,
        starts=starts,
        energy_l2=0.0,
        low=-half_width,
        high=half_width,
        buffer_size=4 * batch_size,
        buffer_storage="float",
    )
    quantiles = (jnp.arange(batch_size) + 0.5) / batch_size
    data = jax.scipy.special.ndtri(quantiles)
    data = (data * np.sqrt(DATA_VARIANCE) / jnp.std(data))[:, None]  # exactly of variance v
    batch = {"image": jax.random.permutation(KEY, data)}
    params = {"theta": jnp.float32(predicted_theta(num_steps, 0.5))}

    def update(carry, step):
        params, state = carry
        (_, (state, _)), grads = jax.value_and_grad(objective.loss, has_aux=True)(
            params, state, batch, jax.random.fold_in(KEY, step)
        )
        rate = 0.5 * params["theta"] ** 2  # Newton's step, halved: d var / d theta ~ -1 / theta^2
        params = {"theta": params["theta"] - rate * grads["theta"]}
        return (params, state), params["theta"]

    start = params, objective.init(KEY, params, batch)
    _, theta = jax.jit(lambda c: jax.lax.scan(update, c, jnp.arange(num_updates)))(start)
    return float(np.mean(theta[num_updates // 3 :]))


@pytest.mark.parametrize(
    ("starts", "num_steps", "fresh_share", "from_the_text"),
    [
        ("noise", 5, 1.0, 15.192),
        ("noise", 30, 1.0, 4.869),
        ("data", 5, 0.0, 4.0834),
        ("persistent", 5, 0.0, 4.0834),
        ("replay_buffer", 5, 0.05, None),
    ],
)
def test_trained_theta_has_the_bias_of_its_chains(starts, num_steps, fresh_share, from_the_text):
    wanted = predicted_theta(num_steps, fresh_share)
    if from_the_text is not None:
        assert wanted == pytest.approx(from_the_text, abs=1e-3)
    # Monte Carlo: 400 updates of 1,024 chains; their squares have relative error sqrt(2), and
    # persistent ones stay correlated for about 1 / (2 h theta K) = 3 updates.
    assert trained_theta(starts, num_steps) == pytest.approx(wanted, rel=0.02)


def test_a_buffer_lessens_the_bias_and_persistence_removes_it():
    truth = 1 / DATA_VARIANCE
    noise, buffer, persistent = (
        trained_theta(starts, 5) for starts in ("noise", "replay_buffer", "persistent")
    )
    assert noise > 15 > 6 > buffer > persistent > truth


# ---- the terms of the loss ----


def value_and_grad(objective, params, batch):
    state = objective.init(KEY, params, batch)
    return jit_once(jax.value_and_grad(objective.loss, has_aux=True))(params, state, batch, KEY)


@pytest.mark.parametrize("form", cd.FORMS)
def test_every_term_of_the_loss_on_a_deterministic_chain(form):
    """At temperature 0 a chain from x ends at a^K x, a = 1 - h T theta, so all is elementary."""
    h, theta, temperature, l2, weight, k = 0.1, 2.0, 1.5, 0.3, 0.7, 3
    kernel = functools.partial(samplers.langevin, step_size=h, temperature=0.0)
    objective = cd.contrastive_divergence(
        Quadratic(),
        kernel,
        num_steps=k,
        starts="data",
        form=form,
        likelihood_weight=weight,
        energy_l2=l2,
        temperature=temperature,
    )
    x = np.array([[0.2], [0.5], [0.9]])
    end = ((1 - h * temperature * theta) ** k * x)[:, 0] ** 2

    def total(theta, end_of_chain=end):
        pos, neg = 0.5 * theta * x[:, 0] ** 2, 0.5 * theta * end
        t = temperature
        if form == "softplus":
            value = np.mean(np.log1p(np.exp(t * (pos - neg))))
        elif form == "logsumexp":
            fixed = 0.5 * 2.0 * end
            w = np.exp(-t * (fixed - fixed.min()))
            value = t * pos.mean() - np.sum(w * t * neg) / (w.sum() + 1e-4)
        else:
            value = t * (pos.mean() - neg.mean())
        value = weight * value + l2 * (np.mean(pos**2) + np.mean(neg**2))
        if form == "cd_with_kl":  # the weights of the energy fixed, those of the chain not
            value += np.mean(0.5 * 2.0 * (1 - h * t * theta) ** (2 * k) * x[:, 0] ** 2)
        return value

    params = {"theta": jnp.float32(theta)}
    (loss, _), grads = value_and_grad(objective, params, {"image": jnp.asarray(x, jnp.float32)})
    assert loss == pytest.approx(total(theta), rel=1e-5)
    slope = (total(theta + 1e-5) - total(theta - 1e-5)) / 2e-5
    assert grads["theta"] == pytest.approx(slope, rel=1e-4)


# ---- the replay buffer and the metrics ----


def test_chains_start_from_the_buffer_and_metrics_are_named_so():
    """A chain that hardly moves ends where it started: what is drawn is what was remembered."""
    kernel = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    objective = cd.contrastive_divergence(
        Quadratic(), kernel, num_steps=1, energy_l2=0.0, buffer_size=2048, buffer_storage="float"
    )
    batch = {"image": jnp.full((512, 1), 0.5)}
    params = {"theta": jnp.float32(1.0)}
    loss = jit_once(objective.loss)
    state, shares, remembered = objective.init(KEY, params, batch), [], np.zeros(0)
    for step in range(4):
        _, (state, metrics) = loss(params, state, batch, jax.random.fold_in(KEY, step))
        replayed = metrics["energy_neg_from_buffer"].count
        assert replayed + metrics["energy_neg_from_noise"].count == 512
        shares.append(float(replayed) / 512)
        ends = np.asarray(state.replay_buffer.storage).reshape(-1)[512 * step : 512 * (step + 1)]
        assert np.isin(ends, remembered).mean() == pytest.approx(shares[-1], abs=1e-6)
        remembered = np.append(remembered, ends)
    assert shares[:2] == [0.0, 0.0]  # the published code replays from its third step on
    assert np.mean(shares[2:]) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 1024))
    assert set(metrics) == {"energy_pos", "l2_penalty"} | {
        f"{name}_from_{place}"
        for name in ("energy_neg", "displacement", "grad_norm")
        for place in ("buffer", "noise")
    }


@pytest.mark.parametrize("starts", ["replay_buffer", "persistent"])
def test_eight_devices_keep_their_memories_apart(starts):
    kernel = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    objective = cd.contrastive_divergence(
        Quadratic(),
        kernel,
        num_steps=1,
        starts=starts,
        buffer_size=8 * 64,
        buffer_storage="float",
        num_shards=8,
    )
    params = {"theta": jnp.float32(1.0)}
    batch = {
        "image": jnp.full((8, 16, 1), 0.5),
        "index": jnp.arange(8 * 16).reshape(8, 16),
    }
    one = objective.init(KEY, params, {"image": batch["image"][0]})
    state = jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *a.shape)), one)
    loss = jax.pmap(lambda s, b, key: objective.loss(params, s, b, key)[1][0], in_axes=(0, 0, None))
    for step in range(4):
        state = loss(state, batch, jax.random.fold_in(KEY, step))
    stored = jax.tree.leaves(state.replay_buffer)[0].reshape(8, -1)
    assert stored.shape == (8, 64 if starts == "replay_buffer" else 16)
    values = [set(np.unique(row)) for row in np.asarray(stored)]
    for i in range(8):
        for j in range(i):
            assert not values[i] & values[j]


def test_persistent_chains_go_on_where_they_ended():
    kernel = functools.partial(samplers.langevin, step_size=0.5, temperature=0.0)
    objective = cd.contrastive_divergence(Quadratic(), kernel, num_steps=2, starts="persistent")
    batch = {"image": jnp.full((4, 1), 0.5)}
    params = {"theta": jnp.float32(0.2)}  # each step multiplies x by .9
    state = objective.init(KEY, params, batch)
    loss = jit_once(objective.loss)
    _, (first, metrics) = loss(params, state, batch, KEY)
    assert metrics["energy_neg_from_noise"].count == 4
    _, (second, metrics) = loss(params, first, batch, KEY)
    assert metrics["energy_neg_from_chain"].count == 4
    np.testing.assert_allclose(second.replay_buffer.x, 0.81 * first.replay_buffer.x, rtol=1e-5)


# ---- labels, dropout, sampling ----


def test_samples_are_fresh_chains_and_every_class_has_its_turn():
    kernel = functools.partial(samplers.langevin, step_size=0.1, temperature=1e-8)
    objective = cd.contrastive_divergence(PerClass(), kernel, num_steps=100, low=-1.0, high=4.0)
    params = {"offset": jnp.float32(0.0)}
    sample = jit_once(objective.sample, static_argnums=2)
    x = sample(KEY, params, 7)
    np.testing.assert_allclose(x[:, 0], np.arange(7) % 3, atol=1e-2)
    part = sample(KEY, params, 3, first_sample=4, label=jnp.array([1, 2, 0]))
    np.testing.assert_allclose(part, x[4:], rtol=1e-6, atol=1e-7)


def test_chain_of_a_conditional_network_has_the_label_beside_it():
    kernel = functools.partial(samplers.langevin, step_size=0.5, temperature=0.0)
    objective = cd.contrastive_divergence(
        PerClass(), kernel, num_steps=60, starts="persistent", low=-1.0, high=4.0
    )
    batch = {"image": jnp.full((3, 1), 0.5), "label": jnp.array([2, 0, 1])}
    params = {"offset": jnp.float32(0)}
    memory = objective.init(KEY, params, batch)
    _, (state, _) = jit_once(objective.loss)(params, memory, batch, KEY)
    np.testing.assert_allclose(state.replay_buffer.x[:, 0], [2, 0, 1], atol=1e-5)


def test_dropout_draws_fresh_masks_for_data_chain_and_ends():
    module = IgebmResNet(image_size=4, channels=1, width=8, multipliers=(1,), num_blocks=(1,))
    x = jax.random.uniform(KEY, (4, 4, 4, 1))
    params = jit_once(module.init)(KEY, x)["params"]
    params["stage_0_block_0"]["conv2"]["kernel"] = jax.random.normal(KEY, (3, 3, 8, 8))
    kernel = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    losses = {}
    for dropout in (False, True):
        objective = cd.contrastive_divergence(
            module, kernel, num_steps=2, starts="data", energy_l2=0.0, dropout=dropout
        )
        state = objective.init(KEY, params, {"image": x})
        losses[dropout], _ = jit_once(objective.loss)(params, state, {"image": x}, KEY)
    assert losses[False] == pytest.approx(0.0, abs=1e-4)  # the ends are the data
    assert abs(losses[True]) > 0.01  # but not under other masks


# ---- refusals ----


def test_what_cannot_be_trained_is_refused():
    kernel = functools.partial(samplers.langevin, step_size=0.1)
    make = functools.partial(cd.contrastive_divergence, Quadratic(), kernel, num_steps=3)
    for options, message in [
        ({"starts": "buffer"}, "starts is 'buffer': write one of replay_buffer, persistent"),
        ({"form": "nce"}, "form is 'nce': write one of cd, logsumexp"),
        ({"start_noise": "cauchy"}, "start_noise is 'cauchy': write one of uniform, normal"),
        ({"num_steps": 0}, "num_steps is 0 and the box"),
        ({"low": 1.0, "high": 0.0}, "the box 1.0 to 0.0: write at least 1 step, and a low below"),
        ({"dropout": True}, "Quadratic has no dropout: write dropout=False"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**options)
    data = {"image": jnp.array([[-0.5], [0.5]])}
    with pytest.raises(ValueError, match=r"the data lie in -0\.5 to 0\.5, outside the box"):
        make().init(KEY, {}, data)
    with pytest.raises(ValueError, match="buffer holds 1 entries and the batch is 2"):
        make(low=-1.0, buffer_size=1).init(KEY, {}, data)


def test_missing_labels_and_classes_out_of_range_are_refused():
    kernel = functools.partial(samplers.langevin, step_size=0.1)
    objective = cd.contrastive_divergence(PerClass(), kernel, num_steps=1)
    images = {"image": jnp.zeros((2, 1))}
    with pytest.raises(ValueError, match="conditional on 3 classes and the data have no labels"):
        objective.init(KEY, {}, images)
    with pytest.raises(ValueError, match="label 3 is out of range: write classes 0 to 2"):
        objective.init(KEY, {}, images | {"label": jnp.array([0, 3])})


# ---- METHODS 5g: a density on the plane against a grid ----


def test_two_modes_on_the_plane_against_a_grid():
    """Unequal modes, trained with a buffer: the model's density is the data's."""
    module = EnergyMLP(width=64, depth=2)
    objective = cd.contrastive_divergence(
        module,
        functools.partial(samplers.langevin, step_size=0.02),
        num_steps=20,
        energy_l2=0.0,
        low=-4.0,
        high=4.0,
        buffer_size=4096,
        buffer_storage="float",
    )
    data = two_modes.batches(deviation=0.4, num_updates=800, batch_size=256)
    params = two_modes.train(module, objective, data, learning_rate=3e-3)
    assert -1e-3 < two_modes.kl_divergence(module, params, 0.4**2) < 0.05
