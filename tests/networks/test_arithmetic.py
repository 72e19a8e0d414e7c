"""The type and the formulation that a network is given are those of all its convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from ebm_jax.networks import FilmResNet, IgebmConvNet, IgebmResNet, MdsmResNet, RecoveryResNet
from ebm_jax.networks.convolution import Conv

SMALL = {"image_size": 8, "channels": 2, "width": 4, "multipliers": (1, 2)}
NETWORKS = [
    RecoveryResNet(**SMALL, num_blocks=2),
    FilmResNet(**SMALL, num_blocks=2),
    MdsmResNet(**SMALL, num_blocks=2),
    IgebmResNet(**SMALL, num_blocks=(1, 2), num_classes=3),
    IgebmConvNet(**SMALL, num_classes=3, gain_layer=0),
]


@pytest.mark.parametrize("module", NETWORKS, ids=lambda module: type(module).__name__)
def test_every_convolution_is_in_it(module):
    """What comes between two convolutions stays in half precision, so that it is never widened."""
    module = module.clone(dtype=jnp.bfloat16, formulation="dense")
    condition = None if isinstance(module, MdsmResNet) else jnp.array([1])
    convolutions, inputs, outputs = [], [], []

    def note(call, arguments, keywords, context):
        y = call(*arguments, **keywords)
        if isinstance(context.module, Conv):
            convolutions.append(context.module)
            inputs.append(arguments[0].dtype)
            outputs.append(y.dtype)
        return y

    x, more = jnp.zeros((1, *module.input_shape)), {}
    if isinstance(module, IgebmResNet):
        more["keep_masks"] = [jnp.zeros((1, *shape)) for shape in module.mask_shapes]
    with nn.intercept_methods(note):
        energies, variables = jax.eval_shape(
            lambda x: module.init_with_output(jax.random.key(0), x, condition, **more), x
        )
    kernels = [leaf for leaf in flatten_dict(variables["params"]).values() if leaf.ndim == 4]
    assert len(convolutions) == len(kernels) > 2
    assert {layer.formulation for layer in convolutions} == {"dense"}
    assert inputs == [jnp.float32] + [jnp.bfloat16] * (len(inputs) - 1)
    assert outputs == [jnp.bfloat16] * len(outputs)
    assert energies.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("module", "value", "wanted"),
    [
        (RecoveryResNet(17, 1, width=4, multipliers=(1,), num_blocks=1), 1, -4 * 289),
        (FilmResNet(17, 1, width=4, multipliers=(1,), num_blocks=1), 128, 4 * 128 * 289 / 17),
        (MdsmResNet(1, 1, width=4, multipliers=()), 17, 4 * 289),
        (IgebmResNet(17, 1, width=4, multipliers=(), num_blocks=()), 1, 4 * 289),
    ],
    ids=["recovery_resnet", "film_resnet", "mdsm_resnet", "igebm_resnet"],
)
def test_the_head_sums_in_full_precision(module, value, wanted):
    """The first convolution gives `value` everywhere; 289 is no number of bfloat16."""
    half = module.clone(dtype=jnp.bfloat16, formulation="native")
    condition = None if isinstance(module, (MdsmResNet, IgebmResNet)) else 0
    x = jnp.ones((1, *module.input_shape))
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, condition)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["conv_in"] |= {"kernel": np.zeros((3, 3, 1, 4), np.float32)}
    if isinstance(module, IgebmResNet):
        params["conv_in"]["kernel"][1, 1] = value
        params["head"]["kernel"] += 1
    else:
        params["conv_in"]["bias"] += value
    if isinstance(module, MdsmResNet):
        params["quadratic"]["kernel"] += 1
    elif not isinstance(module, IgebmResNet):
        params["head" if "head" in params else "temb_dense_2"]["bias"] += 1
    energies = jax.jit(half.apply)({"params": params}, x, condition)
    np.testing.assert_allclose(energies, [wanted], rtol=1e-6)
