import jax
import jax.numpy as jnp
import networks_in_numpy as plain
import numpy as np
import pytest

from ebm_jax import networks
from ebm_jax.networks import mdsm


def test_network_is_its_equations():
    module = mdsm.MdsmResNet(image_size=8, channels=2, width=2, multipliers=(2, 3), num_blocks=2)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    params = plain.random_params(module)
    wanted = plain.mdsm_resnet(plain.as_float64(params), x, stages=(2, 2))
    actual = jax.jit(lambda x: networks.make_energy_fn(module, params)(x))(x)
    np.testing.assert_allclose(actual, wanted, rtol=1e-4)


@pytest.mark.parametrize(("module", "millions"), [(mdsm.res18(), 62.3), (mdsm.res12(), 9.06)])
def test_published_sizes(module, millions):
    x = jnp.zeros((1, *module.input_shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def test_initialisation_is_uniform_within_the_root_of_the_fan_in():
    module = mdsm.MdsmResNet(image_size=4, channels=1, width=16, multipliers=(2,), num_blocks=1)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    block = params["stage_0_block_0"]
    for leaf, fan_in in [
        (block["conv1"]["kernel"], 9 * 16),
        (block["conv2"]["bias"], 9 * 16),
        (block["conv_shortcut"]["bias"], 16),
        (params["linear_1"]["kernel"], 4 * 32),
    ]:
        bound = 1 / np.sqrt(fan_in)
        assert np.abs(leaf).max() <= bound
        assert np.abs(leaf).max() > 0.8 * bound


def test_a_condition_or_a_size_that_cannot_be_halved_is_refused():
    module = mdsm.MdsmResNet(image_size=8, channels=1, width=2, multipliers=(2,))
    with pytest.raises(ValueError, match="the network is unconditional"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.array([0]))
    odd = mdsm.res12(width=2, image_size=28)
    with pytest.raises(ValueError, match="expected one that can be halved 3 times"):
        odd.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
