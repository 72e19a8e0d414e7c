"""Released weights by their names and layouts, on small networks made here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks_in_numpy import as_float64, igebm_resnet, power_state, random_params
from networks_in_numpy import leaky_relu as plain_leaky_relu

from ebm_jax.convert import from_reference
from ebm_jax.networks import igebm, mdsm


def named(module, params, rename):
    """{published name: array} with u [1, c_out] beside every normalised kernel."""
    arrays = {rename(*path): np.asarray(a) for path, a in flatten_dict(params).items()}
    if hasattr(module, "spectral_norm_mode"):
        for path, u in power_state(module, params).items():
            kernel = rename(*path.split("/"))
            arrays[kernel.removesuffix("kernel") + "u"] = np.asarray(u)[None]
    return arrays


def resnet_name(*path):
    """'stage_1_block_0', 'conv2', 'kernel' -> 'res_3/c2/kernel' in a network of 3 x 3 blocks."""
    outer = {"conv_in": "c1_pre", "head": "fc5"}
    if path[0] in outer:
        return f"{outer[path[0]]}/{path[1]}"
    _, stage, _, block = path[0].split("_")
    number = 3 * int(stage) + int(block)
    inner = {
        ("conv1", "kernel"): "c1/kernel",
        ("conv2", "kernel"): "c2/kernel",
        ("conv_shortcut", "kernel"): "shortcut/kernel",
        ("in_bias_1",): "c1/in_bias",
        ("in_bias_2",): "c2/in_bias",
        ("gain",): "c2/gain",
        ("gain_offset",): "c2/gain_offset",
    }
    return f"res_{number or 'optim'}/{inner[path[1:]]}"


def strided_name(*path):
    names = {
        "conv_in": "c1_pre",
        "dense": "fc_dense",
        "head": "fc5",
        "conv_0": "c1",
        "conv_1": "c2",
    }
    loose = {"in_bias_0": "c1/in_bias", "in_bias_1": "c2/in_bias", "gain": "c2/gain"}
    loose["gain_offset"] = "c2/gain_offset"
    return loose.get(path[0]) or f"{names[path[0]]}/{path[1]}"


def assert_same(converted, module, params):
    assert converted.module == module
    assert jax.tree.structure(converted.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, converted.params, params)


def test_conditional_large_network_is_recognised_and_whole():
    module = igebm.resnet32_large(4, width=2, channels=1)
    assert module.final_activation == "leaky_relu"  # quirk
    params = random_params(module, jnp.zeros(1, int))
    converted = from_reference("igebm", named(module, params, resnet_name))
    assert_same(converted, module, params)
    x = np.random.default_rng(0).uniform(size=(2, 8, 8)).astype(np.float32)  # any size fits
    label = np.array([3, 1])
    wanted = igebm_resnet(
        as_float64(params),
        x[..., None],
        stages=(3, 3, 3),
        act=plain_leaky_relu,
        final_act=plain_leaky_relu,
        label=label,
    )
    energies = jax.jit(lambda x: converted.energy_fn(x, label))(x)
    np.testing.assert_allclose(energies, wanted, rtol=1e-4)


def test_strided_networks_are_recognised_by_their_gain():
    unconditional = igebm.mnist_net(width=2, first_width=3, multipliers=(1, 2), image_size=12)
    params = random_params(unconditional)
    arrays = named(unconditional, params, strided_name)
    assert_same(from_reference("igebm", arrays), unconditional, params)
    swish = from_reference("igebm", arrays, activation="swish")
    assert swish.module == unconditional.clone(activation="swish")

    # A label of one number: plain vectors, scaled by its value.
    conditional = igebm.dsprites_net(
        1, width=2, first_width=3, multipliers=(1, 2), image_size=12, gain_layer=1
    )
    params = random_params(conditional, jnp.zeros(1, int))
    arrays = named(conditional, params, strided_name)
    flat = {k: v[0] if k.endswith(("in_bias", "gain")) else v for k, v in arrays.items()}
    assert_same(from_reference("igebm", flat), conditional, params)


def test_mdsm_layouts_are_turned():
    module = mdsm.MdsmResNet(image_size=8, channels=2, width=2, multipliers=(2, 3), num_blocks=2)
    params = random_params(module)
    blocks = {"stage_0_block_0": "rb1", "stage_0_block_1": "rbc1"}
    blocks |= {"stage_1_block_0": "rb2", "stage_1_block_1": "rbc2"}
    heads = {"linear_1": "ln1", "linear_2": "ln2", "quadratic": "lq"}
    inner = {"conv1": "conv_1", "conv2": "conv_2", "conv_shortcut": "conv_shortcut"}

    def rename(*path):
        if path[0] in heads:
            return f"{heads[path[0]]}/{'weight' if path[1] == 'kernel' else 'bias'}"
        if path[0] == "conv_in":
            return f"conv1/{path[1]}"
        return f"{blocks[path[0]]}/{inner[path[1]]}/{path[2]}"

    def theirs(name, array):
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if name.endswith("weight"):  # rows, columns, channels -> channels, rows, columns
            return array.reshape(2, 2, 6).transpose(2, 0, 1).reshape(1, -1)
        return array

    arrays = {k: theirs(k, v) for k, v in named(module, params, rename).items()}
    converted = from_reference("mdsm", arrays)
    assert_same(converted, module, params)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    ours = converted.energy_fn(x)
    np.testing.assert_array_equal(converted.energy_fn(x.transpose(0, 3, 1, 2)), ours)


def test_what_is_no_such_network_is_refused():
    module = igebm.mnist_net(width=2, first_width=3, multipliers=(1,), image_size=8)
    arrays = named(module, random_params(module), strided_name)
    for method, given, message in [
        ("vae", arrays, "method: expected one of 'drl', 'igebm', 'mdsm', got 'vae'"),
        ("mdsm", arrays, "no MDSM network in names such as"),
        ("igebm", {"w/c1_pre/kernel": arrays["c1_pre/kernel"]}, "no IGEBM network in names such"),
        ("igebm", arrays | {"c1/bias": np.zeros(2)}, "'c1/bias' is no weight of this network"),
        ("igebm", {"res_optim/c1/kernel": 0, "res_1/c1/kernel": 0}, "has the blocks res_optim, "),
    ]:
        with pytest.raises(ValueError, match=message):
            from_reference(method, given)
    converted = from_reference("igebm", arrays)
    with pytest.raises(
        ValueError, match=r"images are \[10, 10, 1\]: give this network \[8, 8, 1\]"
    ):
        converted.energy_fn(np.zeros((1, 10, 10, 1), np.float32))
