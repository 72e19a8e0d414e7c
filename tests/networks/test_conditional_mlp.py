"""The energy of a state given its context, against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import networks
from ebm_jax.networks.conditional_mlp import ConditionalMLP, NextStateMLP

MODULE = ConditionalMLP(input_size=3, label_size=6, width=8, depth=3)


def in_numpy(weights, x, context):
    """One matrix on x and the context together, two more layers, a head without a bias."""
    first = np.concatenate([weights["hidden_0/kernel"], weights["context/kernel"]])
    h = np.concatenate([x, context], axis=1) @ first + weights["hidden_0/bias"]
    for layer in (1, 2):
        h = np.where(h > 0, h, 0.2 * h)
        h = h @ weights[f"hidden_{layer}/kernel"] + weights[f"hidden_{layer}/bias"]
    h = np.where(h > 0, h, 0.2 * h)
    return (h @ weights["energy/kernel"])[:, 0]


def test_energies_and_input_gradients():
    rng = np.random.default_rng(1)
    x, context = rng.normal(size=(4, 3)), rng.normal(size=(4, 6))
    inputs = jnp.zeros((1, 3)), jnp.zeros((1, 6))
    tree = jax.eval_shape(MODULE.init, jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), tree)
    weights = {f"{a}/{b}": leaf for a, group in params.items() for b, leaf in group.items()}

    @jax.jit
    def energies_and_grads(params, x, context):
        energy_fn = networks.make_energy_fn(MODULE, params, context)
        energy, back = jax.vjp(energy_fn, x)
        return energy, back(jnp.ones_like(energy))[0]

    arguments = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, context))
    energies, grads = energies_and_grads(*arguments)
    np.testing.assert_allclose(energies, in_numpy(weights, x, context), rtol=1e-4, atol=1e-5)
    for i in range(3):
        h = 1e-6 * np.eye(3)[i]
        slope = (in_numpy(weights, x + h, context) - in_numpy(weights, x - h, context)) / 2e-6
        np.testing.assert_allclose(grads[:, i], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("actions", "number"), [(0, 57_600), (20, 60_160)])
def test_published_size(actions, number):
    """Five frames of 38 values, without and with the 20 of an action."""
    network = ConditionalMLP(input_size=38, label_size=4 * 38 + actions)
    inputs = jnp.zeros((1, 38)), jnp.zeros((1, network.label_size))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == number
    assert shapes["hidden_1"]["kernel"].shape == (128, 128)


def test_first_layer_starts_as_one_of_both_does():
    """Every entry of its matrix has the variance 1 / (values of x and of the context)."""
    network = ConditionalMLP(input_size=8, label_size=24, width=256)
    inputs = jnp.zeros((1, 8)), jnp.zeros((1, 24))
    params = jax.jit(network.init)(jax.random.key(0), *inputs)["params"]
    for name in ("hidden_0", "context"):
        assert np.std(params[name]["kernel"]) == pytest.approx(1 / np.sqrt(32), rel=0.1)


def test_what_a_condition_must_be():
    wrong = jnp.zeros((2, 5)), jnp.zeros((2, 6), jnp.int32), jnp.zeros(6), jnp.zeros((2, 6, 1))
    for condition in (None, *wrong):
        with pytest.raises(ValueError, match=r"expected float .batch, 6., got"):
            jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((2, 3)), condition)


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "swish"])
def test_activations(activation):
    """Of one hidden layer whose units see x and the context: 3 and -2 there, each once in E."""
    module = ConditionalMLP(1, label_size=1, width=2, depth=1, activation=activation)
    params = {
        "context": {"kernel": jnp.array([[2.0, -1]])},
        "hidden_0": {"kernel": jnp.array([[1.0, -1]]), "bias": jnp.zeros(2)},
        "energy": {"kernel": jnp.ones((2, 1))},
    }
    wanted = {"leaky_relu": 3 - 0.4, "relu": 3, "swish": 3 / (1 + np.exp(-3)) - 2 / (1 + np.exp(2))}
    energy = module.apply({"params": params}, jnp.ones((1, 1)), jnp.ones((1, 1)))
    np.testing.assert_allclose(energy, [wanted[activation]], rtol=1e-6)


@pytest.mark.parametrize("activation", ["leaky_relu", "swish"])
def test_prediction(activation):
    fields = {} if activation == "leaky_relu" else {"activation": activation}
    network = NextStateMLP(output_size=2, width=4, depth=2, **fields)
    rng = np.random.default_rng(0)
    context = rng.normal(size=(5, 3)).astype(np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(1), context)["params"]
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    hidden = context
    for layer in ("hidden_0", "hidden_1"):
        hidden = hidden @ params[layer]["kernel"] + params[layer]["bias"]
        if activation == "swish":
            hidden = hidden / (1 + np.exp(-hidden))
        else:
            hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    wanted = hidden @ params["next_state"]["kernel"] + params["next_state"]["bias"]
    found = jax.jit(network.apply)({"params": params}, context)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_every_layer_of_a_prediction_has_a_norm():
    mode = NextStateMLP(2, 4, 1).spectral_norm_mode
    assert mode(("hidden_0", "kernel")) == mode(("next_state", "kernel")) == "unit"
    assert mode(("next_state", "bias")) is None
