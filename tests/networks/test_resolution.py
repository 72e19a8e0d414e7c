"""Pools and patches, and the networks that see patches as channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ebm_jax.networks.igebm import IgebmResNet
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.networks.resolution import average_pool, check_can_halve, patches

SMALL = {"width": 4, "multipliers": (1, 2)}
NETWORKS = [
    RecoveryResNet(image_size=8, channels=1, num_blocks=1, patch_size=2, **SMALL),
    IgebmResNet(image_size=8, channels=1, num_blocks=(1, 1), patch_size=2, **SMALL),
    MdsmResNet(image_size=8, channels=1, num_blocks=1, patch_size=2, **SMALL),
]


def test_pool_is_the_mean_of_four():
    x = np.arange(144.0).reshape(3, 4, 6, 2) ** 2
    wanted = [[x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(average_pool(jnp.asarray(x)), np.transpose(wanted, (2, 0, 1, 3)))


def test_a_patch_is_a_square_of_pixels_row_by_row():
    x = np.arange(4 * 6 * 10 * 7).reshape(4, 6, 10, 7)
    found = patches(jnp.asarray(x), 2)
    assert found.shape == (4, 3, 5, 28)
    for row, column in np.ndindex(3, 5):
        square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(found[:, row, column], square.reshape(4, 28))
    np.testing.assert_array_equal(patches(jnp.asarray(x), 1), x)


@pytest.mark.parametrize("module", NETWORKS, ids=lambda module: type(module).__name__)
def test_a_network_of_patches_is_that_of_more_channels(module):
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    condition = jnp.array([1]) if isinstance(module, RecoveryResNet) else None
    of_channels = module.clone(image_size=4, channels=4, patch_size=1)
    params = module.init(jax.random.key(1), x, condition)
    assert module.input_shape == (8, 8, 1)
    same = of_channels.init(jax.random.key(1), patches(x, 2), condition)
    for name, leaf in flatten_dict(same).items():
        np.testing.assert_array_equal(leaf, flatten_dict(params)[name], err_msg=str(name))

    @jax.jit
    def both(x):
        return (
            module.apply(params, x, condition),
            of_channels.apply(params, patches(x, 2), condition),
        )

    np.testing.assert_array_equal(*both(x))


def test_a_size_that_patches_do_not_divide_is_refused():
    module = MdsmResNet(image_size=16, patch_size=3, **SMALL)
    with pytest.raises(ValueError, match=r"halved 2 times in patches of 3, such as 12.*got 16"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    for module, size, times in ((NETWORKS[0], 6, 1), (NETWORKS[1], 12, 2)):  # in pixels they fit
        x = jnp.zeros((1, size, size, 1))
        with pytest.raises(ValueError, match=rf"halved {times} times in patches of 2.* got {size}"):
            jax.eval_shape(module.clone(image_size=size).init, jax.random.key(0), x, None)


def test_masks_of_dropout_are_of_patches():
    """The first block of a stage sees what the pool in it halves."""
    module = IgebmResNet(image_size=24, num_blocks=(1, 2), patch_size=2, **SMALL)
    assert module.mask_shapes == [(12, 12, 4), (6, 6, 8), (3, 3, 8)]


def test_the_sizes_that_fit():
    """The nearest is named, and one at least; patches only where there are some."""
    check_can_halve(6, 1)
    check_can_halve(7, 0)
    check_can_halve(36, 2, 3)
    for arguments, says in [
        ((7, 1), r"halved 1 times, such as 8, or fewer multipliers, got 7$"),
        ((6, 2), r"halved 2 times, such as 8, or fewer multipliers, got 6$"),
        ((1, 3), r"halved 3 times, such as 8, or fewer multipliers, got 1$"),
        ((41, 2, 3), r"halved 2 times in patches of 3, such as 36, or .* got 41$"),
        ((9, 0, 2), r"halved 0 times in patches of 2, such as 8, or .* got 9$"),
    ]:
        with pytest.raises(ValueError, match="^image_size: expected one that can be " + says):
            check_can_halve(*arguments)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_last_size_is_that_of_the_features_under_the_head(patch_size):
    module = MdsmResNet(image_size=16, num_blocks=1, patch_size=patch_size, **SMALL)
    x = jnp.zeros((1, *module.input_shape))
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    features = SMALL["width"] * SMALL["multipliers"][-1]
    assert params["linear_1"]["kernel"].shape == (module.last_size**2 * features, 1)
