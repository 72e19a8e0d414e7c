"""Contrastive divergence on energies whose trained parameter is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_modes
from flax import linen as nn
from scipy.optimize import brentq
from toy_networks import PerClass, Quadratic

from ebm_jax import samplers
from ebm_jax.methods import ContrastiveDivergence, MethodState
from ebm_jax.methods.contrastive_divergence.chain_init import PersistentChains
from ebm_jax.methods.interpolation import sample_paths
from ebm_jax.networks import EnergyMLP, IgebmResNet

KEY = jax.random.key(0)

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
def trained_theta(chain_init, num_steps, num_updates=600, batch_size=1024):
    """theta after stochastic approximation, averaged over the last two thirds."""
    half_width = np.sqrt(3 * NOISE_VARIANCE)
    method = ContrastiveDivergence(
        Quadratic(),
        make_kernel=functools.partial(samplers.langevin, step_size=STEP_VARIANCE / 2),
        num_steps=num_steps,
        chain_init=chain_init,
        energy_l2=0.0,
        low=-half_width,
        high=half_width,
        buffer_size=4 * batch_size,
        buffer_shards=1,
        buffer_storage="float",
    )
    quantiles = (jnp.arange(batch_size) + 0.5) / batch_size
    data = jax.scipy.special.ndtri(quantiles)
    data = (data * np.sqrt(DATA_VARIANCE) / jnp.std(data))[:, None]  # exactly of variance v
    batch = {"image": jax.random.permutation(KEY, data)}

    def update(carry, step):
        params, state = carry
        (_, (state, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, jax.random.fold_in(KEY, step)
        )
        rate = 0.5 * params["theta"] ** 2  # Newton's step, halved: d var / d theta ~ -1 / theta^2
        params = {"theta": params["theta"] - rate * grads["theta"]}
        return (params, state), params["theta"]

    _, state = method.init(KEY, batch)
    start = {"theta": jnp.float32(predicted_theta(num_steps, 0.5))}, state
    _, theta = jax.jit(lambda c: jax.lax.scan(update, c, jnp.arange(num_updates)))(start)
    return float(np.mean(theta[num_updates // 3 :]))


@pytest.mark.parametrize(
    ("chain_init", "num_steps", "fresh_share", "from_the_text"),
    [
        ("noise", 5, 1.0, 15.192),
        ("noise", 30, 1.0, 4.869),
        ("data", 5, 0.0, 4.0834),
        ("persistent", 5, 0.0, 4.0834),
        ("replay_buffer", 5, 0.05, None),
    ],
)
def test_trained_theta_has_the_bias_of_its_chains(
    chain_init, num_steps, fresh_share, from_the_text
):
    wanted = predicted_theta(num_steps, fresh_share)
    if from_the_text is not None:
        assert wanted == pytest.approx(from_the_text, abs=1e-3)
    # Monte Carlo: 400 updates of 1,024 chains; their squares have relative error sqrt(2), and
    # persistent ones stay correlated for about 1 / (2 h theta K) = 3 updates.
    assert trained_theta(chain_init, num_steps) == pytest.approx(wanted, rel=0.02)


def test_a_buffer_lessens_the_bias_and_persistence_removes_it():
    truth = 1 / DATA_VARIANCE
    noise, buffer, persistent = (
        trained_theta(chain_init, 5) for chain_init in ("noise", "replay_buffer", "persistent")
    )
    assert noise > 15 > 6 > buffer > persistent > truth


# ---- labels, dropout, sampling ----


def conditional(num_steps=100, temperature=1e-8, **settings):
    """Chains that end at the center of their class."""
    kernel = functools.partial(samplers.langevin, step_size=0.1, temperature=temperature)
    return ContrastiveDivergence(
        PerClass(), make_kernel=kernel, num_steps=num_steps, low=-1.0, high=4.0, **settings
    )


def test_samples_are_fresh_chains_and_every_class_has_its_turn():
    params = {"offset": jnp.float32(0.0)}
    sample = jax.jit(conditional().sample)
    x = sample(params, KEY, jnp.arange(7))
    np.testing.assert_allclose(x[:, 0], np.arange(7) % 3, atol=1e-2)
    part = sample(params, KEY, jnp.arange(4, 7), label=jnp.array([1, 2, 0]))
    np.testing.assert_allclose(part, x[4:], rtol=1e-6, atol=1e-7)


def test_a_path_between_classes_has_labels_mixed_by_squared_weights():
    """Its ends are samples of their own classes; between them the shares are cos^2 and sin^2."""
    params, num_points = {"offset": jnp.float32(0.0)}, 5
    paths = jax.tree.map(jnp.asarray, sample_paths(3, num_points))  # of classes 0 1, 2 0, 1 2
    method = conditional()
    samples, found = jax.jit(
        lambda: (method.sample(params, KEY, jnp.arange(6)), method.sample(params, KEY, paths))
    )()
    found = np.asarray(found).reshape(3, num_points)
    np.testing.assert_allclose(found[:, 0], samples[::2, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[:, -1], samples[1::2, 0], rtol=1e-6, atol=1e-6)
    share = np.sin(np.linspace(0, np.pi / 2, num_points)) ** 2
    first, second = np.array([0, 2, 1])[:, None], np.array([1, 0, 2])[:, None]
    np.testing.assert_allclose(found, (1 - share) * first + share * second, atol=1e-2)


def test_labels_given_to_a_path_are_those_of_all_of_it():
    params = {"offset": jnp.float32(0.0)}
    paths = jax.tree.map(jnp.asarray, sample_paths(1, 3))
    sample = jax.jit(conditional().sample)
    found = sample(params, KEY, paths, label=jnp.array([2, 2, 2]))
    np.testing.assert_allclose(found[:, 0], 2.0, atol=1e-2)


def test_chain_of_a_conditional_network_has_the_label_beside_it():
    kernel = functools.partial(samplers.langevin, step_size=0.5, temperature=0.0)
    method = ContrastiveDivergence(
        PerClass(), make_kernel=kernel, num_steps=60, chain_init="persistent", low=-1.0, high=4.0
    )
    batch = {"image": jnp.full((3, 1), 0.5), "label": jnp.array([2, 0, 1])}
    params, memory = method.init(KEY, batch)
    _, (state, _) = jax.jit(method.loss)(params, memory, batch, KEY)
    np.testing.assert_allclose(state.sharded.x[:, 0], [2, 0, 1], atol=1e-5)


def test_dropout_has_fresh_masks_for_data_chain_and_ends():
    network = IgebmResNet(image_size=4, channels=1, width=8, multipliers=(1,), num_blocks=(1,))
    x = jax.random.uniform(KEY, (4, 4, 4, 1))
    kernel = functools.partial(samplers.langevin, step_size=1e-12, temperature=0.0)
    losses = {}
    for dropout in (False, True):
        method = ContrastiveDivergence(
            network, make_kernel=kernel, num_steps=2, chain_init="data", energy_l2=0.0,
            dropout=dropout,
        )  # fmt: skip
        params, state = jax.jit(method.init)(KEY, {"image": x})
        params["stage_0_block_0"]["conv2"]["kernel"] = jax.random.normal(KEY, (3, 3, 8, 8))
        losses[dropout], _ = jax.jit(method.loss)(params, state, {"image": x}, KEY)
    assert losses[False] == pytest.approx(0.0, abs=1e-4)  # the ends are the data
    assert abs(losses[True]) > 0.01  # but not under other masks


class Dropped(nn.Module):
    """x^2 / 2 where its mask is kept, and 0 else; x^2 / 2 without masks."""

    input_shape = (1,)
    mask_shapes = ((1,),)

    @nn.compact
    def __call__(self, x, condition=None, keep_masks=(1.0,)):
        return jnp.sum(keep_masks[0] * x**2, 1) / 2


def test_every_step_of_a_chain_has_masks_of_its_own():
    """Of three steps on T E, each multiplying x by .85 where it is kept, the first has none."""
    kernel = functools.partial(samplers.langevin, step_size=0.1, temperature=0.0)
    method = ContrastiveDivergence(
        Dropped(), low=-9.0, high=9.0, make_kernel=kernel, num_steps=3, chain_init="persistent",
        temperature=1.5, energy_l2=0.0, dropout=True,
    )  # fmt: skip
    batch = {"image": jnp.ones((400, 1))}
    state = MethodState((), PersistentChains(batch["image"], jnp.ones(400, bool)))
    loss, (state, metrics) = jax.jit(method.loss)({}, state, batch, KEY)
    ends, number = np.unique(np.round(state.sharded.x, 5), return_counts=True)
    np.testing.assert_allclose(ends, [0.85**3, 0.85**2, 0.85], rtol=1e-4)
    np.testing.assert_allclose(number / 400, [0.25, 0.5, 0.25], atol=4 * np.sqrt(0.25 / 400))
    pos, neg = (metrics[f"energy_{one}"].value() for one in ("pos", "neg_from_chain"))
    assert loss == pytest.approx(1.5 * float(pos - neg), rel=1e-5)
    assert pos == pytest.approx(0.25, abs=4 * 0.25 / np.sqrt(400))
    assert neg == pytest.approx(np.mean(state.sharded.x**2) / 4, abs=4 * 0.25 / np.sqrt(400))


# ---- refusals ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chain_init": "buffer"}, "chain_init: expected one of replay_buffer, persistent"),
        ({"form": "nce"}, "form: expected one of cd, logsumexp"),
        ({"init_noise": "cauchy"}, "init_noise: expected one of uniform, normal, got 'cauchy'"),
        ({"num_steps": 0}, "num_steps: expected a whole number >= 1, got 0"),
        ({"low": 1.0, "high": 0.0}, r"expected low < high, got the box 1\.0 to 0\.0"),
        ({"low": 1.0}, r"expected low < high, got the box 1\.0 to 1\.0"),
        ({"max_total_grad_norm": 1.0}, r"replaces max_grad: expected 0 with max_grad=0\.01, got 1"),
        ({"dropout": True}, "dropout: expected False, as Quadratic has no dropout"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveDivergence(Quadratic(), **settings)


def test_data_outside_the_box_are_refused():
    method = ContrastiveDivergence(Quadratic(), buffer_shards=1)
    for smallest, largest in ((-0.5, 0.5), (0.5, 1.5)):
        says = f"contains the data, {smallest} to {largest}, got 0 to 1"
        with pytest.raises(ValueError, match=says):
            method.init(KEY, {"image": jnp.array([[smallest], [largest]])})
    method.init(KEY, {"image": jnp.array([[0.0], [1.0]])})


def test_missing_labels_and_classes_out_of_range_are_refused():
    method, images = ContrastiveDivergence(PerClass(), buffer_shards=1), jnp.zeros((2, 1))
    with pytest.raises(ValueError, match="num_classes: expected 0, as the data have no labels"):
        method.init(KEY, {"image": images})
    with pytest.raises(ValueError, match=r"label: expected classes 0 to 2, .* got 3"):
        method.init(KEY, {"image": images, "label": jnp.array([0, 3])})


# ---- METHODS 5g: a density on the plane against a grid ----


def test_two_modes_on_the_plane_against_a_grid():
    """Unequal modes, trained with a buffer: the model's density is the data's."""
    method = ContrastiveDivergence(
        EnergyMLP(width=64, depth=2),
        make_kernel=functools.partial(samplers.langevin, step_size=0.02),
        num_steps=20,
        energy_l2=0.0,
        low=-4.0,
        high=4.0,
        buffer_size=4096,
        buffer_shards=1,
        buffer_storage="float",
    )
    data = two_modes.batches(deviation=0.4, num_updates=800, batch_size=256)
    params = two_modes.train(method, data, learning_rate=3e-3)
    assert -1e-3 < two_modes.kl_divergence(method, params, 0.4**2) < 0.05


def test_samples_with_a_kernel_of_ones_own():
    """From where samples start, with their numbers and keys: the method's own gives its samples."""
    method = conditional(num_steps=3, temperature=0.5)
    params, index = {"offset": jnp.float32(0.0)}, jnp.arange(2, 6)
    wanted = method.sample(params, KEY, index)
    kernel = method.make_kernel(lambda x: method.network.apply({"params": params}, x, index % 3))
    np.testing.assert_allclose(method.sample_with(KEY, kernel, index), wanted, rtol=1e-5)
    short = method.sample_with(KEY, kernel, index, 1)
    assert np.abs(short - wanted).max() > 1e-3
    one = conditional(num_steps=1, temperature=0.5).sample(params, KEY, index)
    np.testing.assert_allclose(short, one, rtol=1e-5)
