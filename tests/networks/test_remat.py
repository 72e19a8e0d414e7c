"""Activations computed again rather than kept: the same numbers, fewer arrays kept."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from ebm_jax import networks
from ebm_jax.networks.film_resnet import FilmResNet
from ebm_jax.networks.igebm import IgebmResNet
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.recovery_resnet import RecoveryResNet

BATCH = 33
NETWORKS = [
    (RecoveryResNet(image_size=4, width=4, multipliers=(1,), num_blocks=4), 1),
    (IgebmResNet(image_size=8, width=4, multipliers=(1,), num_blocks=(4,), num_classes=2), 1),
    (MdsmResNet(image_size=8, width=4, multipliers=(1,), num_blocks=4), None),
    (FilmResNet(image_size=4, width=4, multipliers=(1,), num_blocks=4), 1.5),
]


@pytest.mark.parametrize(
    ("module", "condition"),
    NETWORKS,
    ids=["recovery_resnet", "igebm_resnet", "mdsm_resnet", "film_resnet"],
)
def test_same_gradients_of_fewer_arrays(module, condition, capsys):
    """One array per block is kept, the sum that it begins with, instead of three or more.

    The compiler's count of bytes does not show it here: on CPU XLA computes nothing twice.
    """
    x = jax.random.normal(jax.random.key(0), (BATCH, *module.input_shape))
    condition = None if condition is None else jnp.asarray(condition)
    params = module.init(jax.random.key(1), x, condition)["params"]
    gradients, kept = [], []
    for remat in (False, True):
        network = module.clone(remat=remat)

        def total(params, x, network=network):
            return jnp.sum(networks.bind(network, params, condition)(x) ** 2)

        gradients.append(jax.jit(jax.grad(total, argnums=(0, 1)))(params, x))
        print_saved_residuals(total, params, x)
        shapes = re.findall(rf"\[{BATCH},([\d,]+)\] output", capsys.readouterr().out)
        kept.append(sum(np.prod([int(n) for n in shape.split(",")]) for shape in shapes))
    for plain, again in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    assert 0 < kept[1] < 0.5 * kept[0]
