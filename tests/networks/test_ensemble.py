import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_in_numpy import random_params

from ebm_jax import networks
from ebm_jax.networks.ensemble import Ensemble
from ebm_jax.networks.igebm import IgebmResNet
from ebm_jax.networks.level_constants import LevelConstants
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.mlp import EnergyMLP


def of_three(base, combine, temperature=1.0):
    """An ensemble, its parameters, and each member's."""
    members = [
        jax.tree.map(lambda leaf, i=i: leaf * (1 + 0.1 * i), random_params(base)) for i in range(3)
    ]
    params = {f"member_{i}": p for i, p in enumerate(members)}
    return Ensemble(base, 3, combine, temperature), params, members


@pytest.mark.parametrize("combine", ["mean", "sum", "mixture"])
def test_energy_is_that_of_its_members_combined(combine):
    base = EnergyMLP(input_size=2, width=8, depth=1)
    module, params, members = of_three(base, combine, temperature=2.0)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    each = np.stack([networks.make_energy_fn(base, p)(x) for p in members]).astype(np.float64)
    wanted = {
        "mean": each.mean(0),
        "sum": each.sum(0),
        "mixture": -np.log(np.exp(-each).mean(0)),
    }[combine]
    actual = networks.make_energy_fn(module, params)(x)
    np.testing.assert_allclose(actual, wanted / 2.0, rtol=1e-5)


def test_members_that_hold_a_network_have_each_their_own():
    base = LevelConstants(EnergyMLP(input_size=2, width=8, depth=1, num_frequencies=4), 3)
    x, level = jax.random.normal(jax.random.key(0), (5, 2)), jnp.array([0, 2, 1, 2, 0])
    params = {f"member_{i}": base.init(jax.random.key(i), x, level)["params"] for i in range(2)}
    each = [networks.bind(base, member, level)(x) for member in params.values()]
    actual = networks.bind(Ensemble(base, 2), params, level)(x)
    np.testing.assert_allclose(actual, np.mean(each, 0), rtol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.01


def test_members_are_normalised_each_by_itself_and_share_the_label():
    base = IgebmResNet(
        image_size=4, channels=1, width=4, multipliers=(1,), num_blocks=(1,), num_classes=3
    )
    label = jnp.array([0, 2])
    members = [
        base.init(jax.random.key(i), jnp.zeros((1, 4, 4, 1)), label[:1])["params"] for i in range(3)
    ]
    module = Ensemble(base, 3)
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
    each = [networks.make_energy_fn(base, p, label)(x) for p in members]
    params = {f"member_{i}": p for i, p in enumerate(members)}
    actual = networks.make_energy_fn(module, params, label)(x)
    np.testing.assert_allclose(actual, np.mean(each, axis=0), rtol=1e-5)
    assert module.num_classes == 3
    assert module.input_shape == base.input_shape
    assert networks.has_spectral_norm(module)


def test_without_spectral_norm_there_is_none():
    base = MdsmResNet(image_size=4, channels=1, width=4, multipliers=(2,), num_blocks=1)
    assert not networks.has_spectral_norm(Ensemble(base, 2))


def test_energies_that_take_turns_are_none_together():
    base = EnergyMLP(input_size=2, width=8, depth=1)
    module, params, members = of_three(base, "cycle", temperature=4.0)
    assert module.turns({name: params[name] for name in sorted(params, reverse=True)}) == members
    assert module.scale(10.0) == 2.5
    with pytest.raises(ValueError, match=r"^3 energies that take turns have no energy together"):
        module.apply({"params": params}, jnp.zeros((1, 2)))


def test_it_has_the_labels_and_the_norm_of_its_members():
    plain = Ensemble(MdsmResNet(4), 2)
    assert (plain.num_classes, plain.label_size, plain.spectral_norm_mode) == (None, 0, None)
    assert (plain.combine, plain.temperature) == ("mean", 1.0)
    labelled = Ensemble(IgebmResNet(8, label_size=7), 2)
    assert labelled.label_size == 7
    mode = labelled.spectral_norm_mode
    assert mode(("member_1", "conv_in", "kernel")) == "unit"
    assert mode(("member_0", "stage_0_block_1", "conv2", "kernel")) == "cap"
    assert mode(("member_1", "head", "kernel")) is None


def test_what_its_members_have_per_level_it_has():
    base = EnergyMLP(input_size=2, width=8, depth=1)
    assert not Ensemble(base, 2).has_level_constants
    assert Ensemble(LevelConstants(base, 3), 2).has_level_constants
