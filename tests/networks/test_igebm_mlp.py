"""The dense network with an energy per class, against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain

from ebm_jax import networks
from ebm_jax.evaluation.classification.softmax import softmax_classifier
from ebm_jax.networks import FlatImages, IgebmMLP

MODULE = IgebmMLP(input_size=3, width=5, depth=2, num_classes=4)
X = np.random.default_rng(1).normal(size=(6, 3))
LABELS = np.array([0, 1, 2, 3, 1, 1])


def random_params(module, *condition):
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, *module.input_shape)), *condition
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes["params"])


def in_numpy(weights, x, labels):
    """act(gain(y) W/|W| (x + bias(y))), twice, and a dense head."""
    for layer in range(2):
        part = f"hidden_{layer}"
        kernel = weights[f"{part}/dense/kernel"].astype(np.float64)
        kernel = kernel / np.linalg.norm(kernel, 2)
        gain = weights[f"{part}/gain"][labels] + weights[f"{part}/gain_offset"]
        h = gain * ((x + weights[f"{part}/in_bias"][labels]) @ kernel)
        x = np.where(h > 0, h, 0.2 * h)
    return (x @ weights["head/kernel"] + weights["head/bias"])[:, 0]


def test_energies_and_input_gradients():
    params = random_params(MODULE, jnp.array(0))
    weights = plain.as_flat(params)

    @jax.jit
    def values_and_slopes(x):
        energy_fn = networks.make_energy_fn(MODULE, params, LABELS)
        return energy_fn(x), jax.grad(lambda x: jnp.sum(energy_fn(x)))(x)

    values, slopes = values_and_slopes(X.astype(np.float32))
    np.testing.assert_allclose(values, in_numpy(weights, X, LABELS), rtol=1e-4, atol=1e-4)
    wanted = plain.input_gradient(lambda x, i: in_numpy(weights, x, LABELS[i]), X)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-3, atol=1e-4)


def test_absent_classes_have_no_gradient_and_all_start_with_one_energy():
    params = MODULE.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.array(0))["params"]
    x = jnp.asarray(X, jnp.float32)
    energies = [networks.make_energy_fn(MODULE, params, jnp.array(y))(x) for y in range(4)]
    np.testing.assert_array_equal(energies[1:], [energies[0]] * 3)
    present = jnp.array([1, 3, 3, 1, 1, 3])
    grads = jax.grad(
        lambda p: jnp.sum(networks.make_energy_fn(MODULE, p, present)(x))
    )(random_params(MODULE, jnp.array(0)))  # fmt: skip
    for path, grad in plain.as_flat(grads).items():
        by_class = path.endswith(("/gain", "/in_bias"))
        rows = np.abs(np.asarray(grad)).reshape(len(grad), -1).max(1)
        assert not by_class or list(rows > 0) == [False, True, False, True], path


def test_unconditional_and_label_values():
    assert random_params(IgebmMLP(3, width=5))["hidden_0"]["gain"].shape == (5,)
    of_values = IgebmMLP(3, width=5, label_size=2)
    values = jnp.array([[0.5, -1.0]])
    assert random_params(of_values, values)["hidden_1"]["in_bias"].shape == (2, 5)
    with pytest.raises(ValueError, match="conditional on 4 classes and got no labels"):
        MODULE.init(jax.random.key(0), jnp.zeros((1, 3)))


def test_classes_are_mixed_in_full_precision():
    """Two vectors in each of two layers, whatever the platform's products are."""
    params = random_params(MODULE, jnp.array(0))
    program = jax.jit(lambda w: MODULE.apply({"params": params}, jnp.ones((6, 3)), w))
    text = program.lower(jnp.ones((6, 4))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert sum("HIGHEST" in line for line in products) == 4
    assert len(products) == 4 + 3


def test_on_images_it_has_its_classes_its_norm_and_a_softmax_network_of_its_size():
    flat = FlatImages(IgebmMLP(4, width=5, num_classes=3), (2, 2, 1))
    assert (flat.num_classes, flat.label_size, flat.input_shape) == (3, 0, (2, 2, 1))
    assert FlatImages(networks.EnergyMLP(4), (2, 2, 1)).num_classes is None
    mode = flat.spectral_norm_mode
    assert mode(("base", "hidden_0", "dense", "kernel")) == "unit"
    assert mode(("base", "head", "kernel")) is None
    classifier = softmax_classifier(flat, has_norm=True)
    batch = {"image": jnp.ones((2, 2, 2, 1)), "label": jnp.array([0, 2])}
    params, state = classifier.init(jax.random.key(0), batch)
    assert classifier.logits(params, batch["image"]).shape == (2, 3)
    assert sorted(state.shared) == ["base/hidden_0/dense/kernel", "base/hidden_1/dense/kernel"]


def test_softmax_among_candidates():
    """Cross-entropy over two of three classes in closed form; the third has no gradient."""
    classifier = softmax_classifier(IgebmMLP(2, width=4, num_classes=3), has_norm=True)
    batch = {
        "image": jnp.array([[0.3, -1.0], [2.0, 0.5]]),
        "label": jnp.array([0, 2]),
        "is_candidate": jnp.array([[True, False, True]] * 2),
    }
    params, state = classifier.init(jax.random.key(0), batch)
    (loss, _), grads = jax.value_and_grad(
        lambda p: classifier.loss(p, state, batch, jax.random.key(1)), has_aux=True
    )(params)
    normalized, _ = networks.normalize_params(classifier.network, params, state.shared)
    logits = np.asarray(classifier.network.apply({"params": normalized}, batch["image"]))
    margin = np.array([logits[0, 2] - logits[0, 0], logits[1, 0] - logits[1, 2]])
    assert loss == pytest.approx(np.mean(np.log1p(np.exp(margin))), rel=1e-5)
    assert list(np.asarray(grads["head"]["bias"]) != 0) == [True, False, True]
    assert not np.any(np.asarray(grads["head"]["kernel"])[:, 1])
