"""Every parameter of a network starts by the law that is its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ebm_jax.networks import (
    ConditionalMLP,
    EnergyMLP,
    FilmResNet,
    IgebmConvNet,
    IgebmMLP,
    IgebmResNet,
    MdsmResNet,
)

SMALL = {"channels": 2, "width": 16, "multipliers": (2,)}
NETWORKS = {  # a law for each name, the first that the path ends with: kernels, then others
    "film_resnet": (
        FilmResNet(4, num_blocks=1, patch_size=2, **SMALL),
        {"conv2/kernel": "zero", "constant/kernel": "zero", "kernel": "lecun", "bias": "zero"},
    ),
    "mdsm_resnet": (
        MdsmResNet(4, num_blocks=1, patch_size=2, **SMALL),
        {"kernel": "fan in", "bias": "fan in"},
    ),
    "igebm_resnet": (
        IgebmResNet(4, num_blocks=(1,), num_classes=3, **SMALL),
        {
            "conv2/kernel": 1e-10, "head/kernel": "glorot", "kernel": 1.0, "gain": "one",
            "head/bias": "zero", "in_bias_1": "zero", "in_bias_2": "zero", "gain_offset": "zero",
        },
    ),
    "igebm_conv": (
        IgebmConvNet(4, first_width=8, num_classes=3, gain_layer=0, **SMALL),
        {
            "head/kernel": "glorot", "kernel": 1.0, "gain": "one", "bias": "zero",
            "in_bias_0": "zero", "gain_offset": "zero",
        },
    ),
    "igebm_mlp": (
        IgebmMLP(20, width=30, depth=1, num_classes=3),
        {"kernel": "lecun", "bias": "zero", "gain": "one", "gain_offset": "zero"},
    ),
    "mlp": (EnergyMLP(20, width=30, depth=1), {"kernel": "lecun", "bias": "zero"}),
    "conditional_mlp": (
        ConditionalMLP(20, label_size=30, width=40, depth=2),
        {"hidden_0/kernel": 50**-0.5, "context/kernel": 50**-0.5, "kernel": "lecun",
         "bias": "zero"},
    ),
}  # fmt: skip
CONDITIONS = {"film_resnet": 1, "conditional_mlp": np.zeros((1, 30), np.float32)}


def assert_uniform(leaf, bound, name):
    assert np.abs(leaf).max() <= bound * (1 + 1e-6), name
    assert np.abs(leaf).max() > bound * 0.1 ** (2 / leaf.size), name  # one in a hundred is not


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_values(name):
    module, laws = NETWORKS[name]
    condition = CONDITIONS.get(name)
    if getattr(module, "num_classes", None):
        condition = 1
    x = jnp.zeros((1, *module.input_shape))
    key = jax.random.key(0, impl="rbg")  # a third of the time to compile
    variables = jax.jit(lambda key: module.init(key, x, condition))(key)
    flat = flatten_dict(variables["params"], sep="/")
    fans = {path.rpartition("/")[0]: np.prod(leaf.shape[:-1])
            for path, leaf in flat.items() if path.endswith("kernel")}  # fmt: skip
    for path, leaf in flat.items():
        law = next(law for end, law in laws.items() if path.endswith(end))
        if law in ("zero", "one"):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, law == "one"), err_msg=path)
            continue
        fan_in = fans[path.rpartition("/")[0]]
        if law == "fan in":
            assert_uniform(leaf, fan_in**-0.5, path)
        elif law == "glorot":
            assert_uniform(leaf, np.sqrt(6 / (fan_in + 1)), path)
        else:
            wanted = fan_in**-0.5 if law == "lecun" else law
            four_errors = 4 / np.sqrt(2 * leaf.size)
            assert np.std(leaf) == pytest.approx(wanted, rel=four_errors), path
