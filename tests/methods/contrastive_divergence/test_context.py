"""Chains that start from the last frame of a context, on an energy whose optimum is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.methods import ContrastiveDivergence, ContrastiveDivergenceSampler
from ebm_jax.methods.contrastive_divergence.chain_init import near_last_frame
from ebm_jax.samplers.random import Blend

KEY = jax.random.key(0)
STEP, NUM_STEPS = 0.1, 6


class Pull(nn.Module):
    """E(x; c) = |x - a c_last|^2 / 2 of vectors of two values given two frames."""

    label_size: int = 4
    input_shape = (2,)
    num_classes = None

    @nn.compact
    def __call__(self, x, condition=None):
        a = self.param("a", nn.initializers.constant(0.3), ())
        last = jnp.zeros((1, 2)) if condition is None else condition[:, -2:]
        return jnp.sum((x - a * last) ** 2, axis=1) / 2


def method(**settings):
    """Deterministic chains of six steps."""
    kernel = functools.partial(samplers.langevin, step_size=STEP, temperature=0.0)
    values = {"chain_init": "context", "context_noise": 0.0, "energy_l2": 0.0, **settings}
    return ContrastiveDivergence(
        Pull(), make_kernel=kernel, num_steps=NUM_STEPS, low=-9.0, high=9.0, **values
    )


def batch_of(number=32):
    context = jax.random.normal(KEY, (number, 4))
    return {"image": 0.8 * context[:, 2:], "label": context}


def test_starts_are_uniform_about_the_last_frame():
    label = jnp.arange(4_000.0).reshape(1_000, 4)
    near = jax.jit(lambda index, label: near_last_frame(KEY, index, label, (2,), 0.5))
    x = near(jnp.arange(1_000), label)
    noise = np.asarray(x - label[:, 2:])
    assert np.abs(noise).max() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(noise.mean(0), 0, atol=4 * 0.5 / np.sqrt(3 * 1_000))
    np.testing.assert_allclose(noise.var(0), 0.25 / 3, rtol=0.15)
    again = near_last_frame(KEY, jnp.array([7]), label[7:8], (2,), 0.5)
    np.testing.assert_array_equal(again[0], x[7])


def test_loss_and_metrics_in_closed_form():
    """The chain's end is a c + (1 - h)^K (1 - a) c."""
    batch, a = batch_of(), 0.3
    one = method()
    params, state = one.init(KEY, batch)
    loss, (_, metrics) = jax.jit(one.loss)(params, state, batch, KEY)
    last = np.asarray(batch["label"][:, 2:], np.float64)
    end = a * last + (1 - STEP) ** NUM_STEPS * (1 - a) * last
    pos, neg = (np.sum((x - a * last) ** 2, 1) / 2 for x in (0.8 * last, end))
    assert loss == pytest.approx(pos.mean() - neg.mean(), rel=1e-4)
    assert metrics["energy_neg_from_context"].value() == pytest.approx(neg.mean(), rel=1e-4)
    assert {name for name in metrics if "_from_" in name} == {
        f"{name}_from_context" for name in ("energy_neg", "displacement", "grad_norm")
    }


def test_training_ends_where_chain_ends_have_the_datas_mean():
    """a = (.8 - r) / (1 - r) with r = (1 - h)^K, as a share r of every end is its start."""
    one, batch = method(), batch_of()
    params, state = one.init(KEY, batch)

    def update(params, _):
        grads = jax.grad(lambda p: one.loss(p, state, batch, KEY)[0])(params)
        return {"a": params["a"] - 0.5 * grads["a"]}, None

    trained, _ = jax.jit(lambda p: jax.lax.scan(update, p, length=100))(params)
    rest = (1 - STEP) ** NUM_STEPS
    assert trained["a"] == pytest.approx((0.8 - rest) / (1 - rest), abs=1e-3)


def test_samples_start_there_too():
    one = method()
    params, label = {"a": jnp.float32(0.5)}, batch_of()["label"]
    found = jax.jit(one.sample)(params, KEY, jnp.arange(32), label=label)
    last = label[:, 2:]
    share = (1 - STEP) ** NUM_STEPS
    np.testing.assert_allclose(found, 0.5 * last + share * 0.5 * last, rtol=1e-4, atol=1e-6)
    blend = Blend(jnp.arange(2), jnp.arange(2), jnp.ones(2), jnp.zeros(2))
    with pytest.raises(ValueError, match="no interpolations"):
        one.sample(params, KEY, blend, label=label[:2])
    in_turn = jax.jit(method(labels=np.asarray(label[:3])).sample)(params, KEY, jnp.arange(4, 12))
    np.testing.assert_allclose(in_turn, found[np.arange(4, 12) % 3], rtol=1e-6)
    with pytest.raises(ValueError, match="expected labels for samples given a vector, got none"):
        one.sample(params, KEY, jnp.arange(2))


def test_what_is_refused():
    with pytest.raises(ValueError, match="of 2 values, with 'context', got labels of 1"):
        ContrastiveDivergence(Pull(label_size=1), chain_init="context")
    ContrastiveDivergence(Pull(label_size=2), chain_init="context")
    params = {"a": jnp.float32(0.5)}
    with pytest.raises(ValueError, match="rollout of trajectories"):
        method().densities(params).energy(jnp.array(0))
    sampler = ContrastiveDivergenceSampler(chains="refreshed_buffer")
    with pytest.raises(
        ValueError, match=r"sampler\.chains: expected 'fresh' with method\.chain_init"
    ):
        method(sampler=sampler)
