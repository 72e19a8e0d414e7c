"""Released weights by their names and layouts, on small networks made here."""

import functools

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


def resnet_name(*path, per_stage=3):
    """'stage_1_block_0', 'conv2', 'kernel' -> 'res_3/c2/kernel' in a network of 3 x 3 blocks."""
    outer = {"conv_in": "c1_pre", "head": "fc5"}
    if path[0] in outer:
        return f"{outer[path[0]]}/{path[1]}"
    _, stage, _, block = path[0].split("_")
    number = per_stage * int(stage) + int(block)
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
    """'conv_1', 'kernel' -> 'c2/kernel'; a gain is that of the second."""
    names = {"conv_in": "c1_pre", "dense": "fc_dense", "head": "fc5"}
    names |= {f"conv_{i}": f"c{i + 1}" for i in range(4)}
    loose = {f"in_bias_{i}": f"c{i + 1}/in_bias" for i in range(4)}
    loose |= {"gain": "c2/gain", "gain_offset": "c2/gain_offset"}
    return loose.get(path[0]) or f"{names[path[0]]}/{path[1]}"


def mdsm_name(*path):
    heads = {"linear_1": "ln1", "linear_2": "ln2", "quadratic": "lq"}
    inner = {"conv1": "conv_1", "conv2": "conv_2", "conv_shortcut": "conv_shortcut"}
    if path[0] in heads:
        return f"{heads[path[0]]}/{'weight' if path[1] == 'kernel' else 'bias'}"
    if path[0] == "conv_in":
        return f"conv1/{path[1]}"
    _, stage, _, block = path[0].split("_")
    number = int(stage) + 1
    blocks = f"rb{number}", f"rbc{number}", f"rbc{number}{number}"
    return f"{blocks[int(block)]}/{inner[path[1]]}/{path[2]}"


def as_mdsm_has_it(name, array, last_size):
    """HWIO -> OIHW; a head's rows, columns, channels -> channels, rows, columns."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if name.endswith("weight"):
        return array.reshape(last_size, last_size, -1).transpose(2, 0, 1).reshape(1, -1)
    return array


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


@pytest.mark.parametrize("num_classes", [None, 2])
def test_smaller_networks_are_recognised_by_their_blocks(num_classes):
    module = igebm.resnet32(num_classes, width=2, channels=3, multipliers=(1, 3, 2))
    params = random_params(module, None if num_classes is None else jnp.zeros(1, int))
    arrays = named(module, params, functools.partial(resnet_name, per_stage=2))
    assert "res_5/c1/kernel" in arrays
    assert_same(from_reference("igebm", arrays), module, params)


def test_unconditional_large_network():
    module = igebm.resnet32_large(width=2, channels=1)
    params = random_params(module)
    assert_same(from_reference("igebm", named(module, params, resnet_name)), module, params)


def test_strided_networks_of_the_published_sizes():
    """The weights fit several sizes of image: the published one stays where it is one of these."""
    module = igebm.mnist_net(width=1, first_width=2)
    params = random_params(module)
    assert_same(from_reference("igebm", named(module, params, strided_name)), module, params)
    module = igebm.dsprites_net(3, width=1, first_width=2, gain_layer=1)
    params = random_params(module, jnp.zeros(1, int))
    assert_same(from_reference("igebm", named(module, params, strided_name)), module, params)


def test_mdsm_layouts_are_turned():
    module = mdsm.MdsmResNet(image_size=8, channels=2, width=2, multipliers=(2, 3), num_blocks=2)
    params = random_params(module)
    arrays = named(module, params, mdsm_name)
    arrays = {k: as_mdsm_has_it(k, v, 2) for k, v in arrays.items()}
    converted = from_reference("mdsm", arrays)
    assert_same(converted, module, params)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    ours = converted.energy_fn(x)
    np.testing.assert_array_equal(converted.energy_fn(x.transpose(0, 3, 1, 2).tolist()), ours)


def test_mdsm_images_that_may_be_either_have_their_channels_last():
    module = mdsm.MdsmResNet(image_size=2, channels=2, width=2, multipliers=(2,))
    params = random_params(module)
    arrays = named(module, params, mdsm_name)
    converted = from_reference("mdsm", {k: as_mdsm_has_it(k, v, 1) for k, v in arrays.items()})
    assert_same(converted, module, params)
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype(np.float32)
    found, wanted = jax.jit(
        lambda x: (converted.energy_fn(x), module.apply({"params": params}, x))
    )(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_what_is_no_such_network_is_refused():
    module = igebm.mnist_net(width=2, first_width=3, multipliers=(1,), image_size=8)
    arrays = named(module, random_params(module), strided_name)
    for method, given, message in [
        ("vae", arrays, "method: expected one of 'drl', 'igebm', 'mdsm', got 'vae'"),
        ("mdsm", arrays, "no MDSM network in names such as"),
        ("igebm", {"w/c1_pre/kernel": arrays["c1_pre/kernel"]}, "no IGEBM network in names such"),
        ("igebm", arrays | {"c1/bias": np.zeros(2)}, "'c1/bias' is no weight of this network"),
        ("igebm", {"res_optim/c1/kernel": 0, "res_1/c1/kernel": 0}, "has the blocks res_optim, "),
        (
            "igebm",
            {f"res_{n}/c1/kernel": 0 for n in ("optim", 1, 2, 3, 4, 6)},
            r"res_4, res_6: only res_optim with res_1 .. res_8 or res_1 .. res_5 are known",
        ),
        ("igebm", {"c1/kernel": arrays["c1/kernel"]}, "no IGEBM network in names such as"),
        ("mdsm", {"conv1/kernel": arrays["c1/kernel"]}, "no MDSM network in names such as"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_reference(method, given)
    converted = from_reference("igebm", arrays)
    with pytest.raises(
        ValueError, match=r"images are \[10, 10, 1\]: give this network \[8, 8, 1\]"
    ):
        converted.energy_fn(np.zeros((1, 10, 10, 1), np.float32))
