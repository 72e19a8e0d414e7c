"""Every kind of condition: energies prepared for it are those of the module, gradients in x too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from networks_in_numpy import random_params

from ebm_jax import networks
from ebm_jax.networks.igebm import IgebmConvNet, IgebmResNet
from ebm_jax.networks.labels import class_weights
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.networks.recovery_resnet import RecoveryResNet

BATCH, CLASSES = 3, 5  # no number of channels
MLP = EnergyMLP(input_size=2, width=8, depth=2)
RECOVERY = RecoveryResNet(4, 1, width=4, multipliers=(1,), num_blocks=1)
IGEBM = IgebmResNet(
    image_size=8, channels=1, width=4, multipliers=(1,), num_blocks=(1,), num_classes=CLASSES
)
CONV = IgebmConvNet(image_size=8, channels=1, width=4, num_classes=CLASSES)
SHARES = np.array([[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0.1, 0.2, 0.3, 0.2, 0.2]], np.float32)
CONDITIONS = {
    "int level": np.array([0, 1, 4]),
    "one int level": np.int32(3),
    "log t": np.array([-2.5, 0.25, 1.0], np.float32),
    "one log-SNR": np.float32(-1.75),
    "vector": np.array([[0.3, -1.0], [2.0, 0.1], [-0.4, 0.7]], np.float32),
    "one vector": np.array([[0.3, -1.0]], np.float32),
}
CLASS_CONDITIONS = {"class": np.array([3, 0, 1]), "class distribution": SHARES}
CASES = (
    [(MLP, name, condition) for name, condition in CONDITIONS.items()]
    + [(RECOVERY, name, CONDITIONS[name]) for name in ("int level", "log t")]
    + [(net, name, c) for net in (IGEBM, CONV) for name, c in CLASS_CONDITIONS.items()]
)


def params_of(module, condition):
    return random_params(module, condition[:1] if np.ndim(condition) else condition)


def inputs(module, number=BATCH):
    return np.random.default_rng(3).normal(size=(number, *module.input_shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("module", "condition"),
    [(module, condition) for module, _, condition in CASES],
    ids=[f"{type(module).__name__}-{name}" for module, name, _ in CASES],
)
def test_prepared_energies_and_gradients_are_those_of_the_module(module, condition):
    params, x = params_of(module, condition), inputs(module)
    direction = np.random.default_rng(4).normal(size=x.shape).astype(np.float32)

    @jax.jit
    def both(x):
        normalized, _ = networks.normalize_params(module, params)
        applied = module.apply({"params": normalized}, x, condition)
        bound = networks.bind(module, normalized, condition, scale=2.0)(x)
        energy_fn = networks.make_energy_fn(module, params, condition, scale=2.0)
        grad = jax.grad(lambda x: jnp.sum(energy_fn(x)))(x)
        step = 2e-3 * direction  # short: some activations have kinks
        slope = (energy_fn(x + step) - energy_fn(x - step)) / 4e-3
        along = jnp.sum((grad * direction).reshape(BATCH, -1), axis=1)
        return applied, bound, energy_fn(x), along, slope

    applied, bound, made, along, slope = both(x)
    assert applied.shape == (BATCH,)
    np.testing.assert_allclose(bound, 2 * applied, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made, 2 * applied, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(along, slope, rtol=2e-2, atol=2e-2 * np.abs(slope).max())


@pytest.mark.parametrize(
    ("module", "condition"),
    [(module, condition) for module, _, condition in CASES if np.ndim(condition)],
    ids=[f"{type(module).__name__}-{name}" for module, name, c in CASES if np.ndim(c)],
)
def test_each_example_has_its_own_condition(module, condition):
    """All examples equal: energies differ by the condition, and follow it when it is permuted."""
    if len(condition) == 1:
        return
    params = params_of(module, condition)
    x = np.broadcast_to(inputs(module, 1), (BATCH, *module.input_shape))
    order = [2, 0, 1]

    @jax.jit
    def energies(condition):
        return networks.make_energy_fn(module, params, condition)(x)

    found, permuted = energies(condition), energies(condition[order])
    np.testing.assert_allclose(permuted, found[np.asarray(order)], rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(np.sort(found))).min() > 1e-5


def test_an_integer_level_is_the_same_number_as_a_float():
    params, x = params_of(MLP, np.array([0])), inputs(MLP)
    energies = [
        networks.make_energy_fn(MLP, params, np.array([0, 1, 4], dtype))(x)
        for dtype in (np.int32, np.float32)
    ]
    np.testing.assert_array_equal(*energies)


def test_a_vector_enters_each_layer_as_it_is():
    """The same network once more in float64."""
    condition = CONDITIONS["vector"]
    weights = plain.as_flat(params_of(MLP, condition))
    assert weights["vector_0/kernel"].shape == (2, 8)
    x = h = inputs(MLP).astype(np.float64)
    for layer in range(2):
        h = h @ weights[f"hidden_{layer}/kernel"] + weights[f"hidden_{layer}/bias"]
        h = h + condition @ weights[f"vector_{layer}/kernel"] + weights[f"vector_{layer}/bias"]
        h = h / (1 + np.exp(-h))
    wanted = (h @ weights["energy/kernel"] + weights["energy/bias"])[:, 0]
    energy_fn = networks.make_energy_fn(MLP, plain.as_tree(weights), condition)
    np.testing.assert_allclose(energy_fn(x.astype(np.float32)), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_neither_a_number_nor_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"^condition: expected numbers .* got the shape \[3, 1"):
        MLP.init(jax.random.key(0), inputs(MLP), np.zeros((3, 1, 2)))


@pytest.mark.parametrize("module", [IGEBM, CONV], ids=["resnet", "conv"])
def test_a_class_distribution_mixes_the_parameters_of_the_classes(module):
    """Mixing by hand into the parameters of class 0, one example at a time."""
    params, x = params_of(module, np.array([0])), inputs(module)

    def mixed(shares):
        def mix(path, leaf):
            per_class = leaf.ndim == 2 and leaf.shape[0] == CLASSES
            return leaf.at[0].set(shares @ leaf) if per_class else leaf

        return jax.tree_util.tree_map_with_path(mix, params)

    changed = sum(leaf.ndim == 2 and leaf.shape[0] == CLASSES for leaf in jax.tree.leaves(params))
    assert changed >= 2

    @jax.jit
    def both(x):
        normalized, _ = networks.normalize_params(module, params)
        energy_fn = networks.bind(module, normalized, SHARES)
        by_hand = []
        for i in range(BATCH):
            normal, _ = networks.normalize_params(module, mixed(SHARES[i]))
            by_hand.append(networks.bind(module, normal, np.int32(0))(x[i : i + 1])[0])
        return energy_fn(x), jnp.stack(by_hand)

    found, wanted = both(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert class_weights(SHARES, CLASSES).shape == (BATCH, CLASSES)
