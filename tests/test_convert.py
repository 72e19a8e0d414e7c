"""Recovery-likelihood weights by their published names: shapes read off, nothing lost, all checked.

(The other methods' weights: tests/networks/test_conversion.py.)
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from reference_files import assert_close, below, load_reference

from ebm_jax.convert import from_reference
from ebm_jax.networks.recovery_resnet import RecoveryResNet

MODULE = RecoveryResNet(image_size=8, channels=2, width=4, multipliers=(1, 3), num_blocks=2)


def published(weights):
    """Our flat weights under the published names, each normalised kernel with its u [1, out]."""
    arrays = {
        re.sub(r"resolution_(\d+)_block_(\d+)", r"level_\1/block_\2", name): value
        for name, value in weights.items()
    }
    for name in list(plain.normalized_names(arrays)):
        u = np.linalg.svd(arrays[name].reshape(-1, arrays[name].shape[-1]))[2][:1]
        arrays[name.removesuffix("kernel") + "u"] = u.astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def weights():
    return plain.random_weights(MODULE)


def test_the_networks_shape_is_read_off_and_every_weight_arrives(weights):
    converted = from_reference("drl", published(weights))
    assert converted.module == MODULE
    params = plain.as_flat(converted.params)
    assert params.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(params[name], value)
    assert sorted(converted.power_state) == sorted(plain.normalized_names(weights))
    assert converted.power_state["resolution_1_block_0/conv_shortcut/kernel"].shape == (12,)
    leaves = jax.tree.leaves((converted.params, converted.power_state))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


@pytest.mark.parametrize("image_size", [8, 4])
def test_energies_at_any_image_size_are_the_equations(weights, image_size):
    energy_fn = from_reference("drl", published(weights)).energy_fn
    x = np.random.default_rng(0).normal(size=(2, image_size, image_size, 2)).astype(np.float32)
    level = np.array([4, 1])
    normalized = plain.normalize(weights, plain.singular_vectors(weights))
    wanted = plain.network(normalized, x, level, multipliers=(1, 3), num_blocks=2)
    assert_close(jax.jit(energy_fn)(x, level), wanted, 2e-5)


def test_grey_images_may_leave_out_their_channel():
    module = MODULE.clone(channels=1, image_size=2, multipliers=(1,), num_blocks=1)
    energy_fn = jax.jit(from_reference("drl", published(plain.random_weights(module))).energy_fn)
    x = np.random.default_rng(0).normal(size=(2, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(energy_fn(x, 0), energy_fn(x[..., None], 0))


def test_the_reference_network_is_recognised():
    converted = from_reference("drl", below(load_reference("drl"), "w"))
    module = converted.module
    assert (module.channels, module.width, module.multipliers, module.num_blocks) == (
        3, 8, (1, 2, 2), 2
    )  # fmt: skip


def test_what_does_not_belong_together_is_refused(weights):
    arrays = published(weights)
    missing = {k: v for k, v in arrays.items() if k != "level_1/block_1/conv2/gain"}
    without_u = {k: v for k, v in arrays.items() if k != "conv_in/u"}
    for given, message in [
        ({f"w/{k}": v for k, v in arrays.items()}, "no recovery-likelihood network in names such"),
        (
            arrays | {"level_0/block_0/conv3/kernel": 0},
            "'level_0/block_0/conv3/kernel' is no weight",
        ),
        (missing, "'level_1/block_1/conv2/gain' is missing"),
        ({"conv_in/kernel": arrays["conv_in/kernel"]}, "no recovery-likelihood network"),
        ({"level_0/block_0/conv1/kernel": 0}, "no recovery-likelihood network"),
        (
            {k: v for k, v in arrays.items() if k != "level_1/block_0/conv2/kernel"},
            "'level_1/block_0/conv2/kernel' is missing: give every weight of the network",
        ),
        (without_u, "'conv_in/u' is missing"),
        (arrays | {"conv_in/bias": np.zeros(5)}, r"'conv_in/bias' is \[5\]: give \[4\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_reference("drl", given)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 8, 3), r"images are \[8, 8, 3\]: give this network"),
        ((1, 8, 4, 2), r"images are \[8, 4, 2\]: give this network"),
        ((1, 2, 8, 8), r"images are \[2, 8, 8\]: give this network \[8, 8, 2\]"),
        ((1, 8, 8), r"images are \[8, 8\]: give this network \[8, 8, 2\]"),
        ((1, 7, 7, 2), "expected one that can be halved 1 times"),
    ],
)
def test_images_that_do_not_fit_are_refused(weights, shape, message):
    energy_fn = from_reference("drl", published(weights)).energy_fn
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: energy_fn(jnp.zeros(shape), 0))
