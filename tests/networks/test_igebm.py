import jax
import jax.numpy as jnp
import networks_in_numpy as plain
import numpy as np
import pytest
from networks_in_numpy import as_float64, power_state, random_params

from ebm_jax import networks
from ebm_jax.networks import igebm, mdsm


def num_parameters(module, condition=None):
    x = jnp.zeros((1, *module.input_shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, condition)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def evaluate(module, params, label, x, **inputs):
    """Energies [batch], everything applied."""
    normalized, _ = networks.normalize_params(module, params, power_state(module, params))
    return networks.bind(module, normalized, label, **inputs)(x)


def energies(module, params, label, x, **inputs):
    """`evaluate` compiled for one use; the label is a constant there, so it is checked."""
    return jax.jit(lambda x: evaluate(module, params, label, x, **inputs))(x)


def images(module, batch=3, seed=1):
    x = np.random.default_rng(seed).uniform(size=(batch, *module.input_shape)).astype(np.float32)
    x[:, :5, :5] = 0.0  # a black patch: exact zeros behind the first convolution
    return x


SMALL = {"image_size": 8, "channels": 2, "width": 3, "multipliers": (1, 2), "num_blocks": (2, 1)}


@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize("activation", ["leaky_relu", "swish"])
def test_residual_network_is_its_equations(num_classes, activation):
    module = igebm.IgebmResNet(
        **SMALL, num_classes=num_classes, activation=activation, final_activation="leaky_relu"
    )
    label = None if num_classes is None else np.array([2, 0, 2])
    params, x = random_params(module, label), images(module)
    wanted = plain.igebm_resnet(
        as_float64(params),
        x,
        stages=SMALL["num_blocks"],
        act=getattr(plain, activation),
        final_act=plain.leaky_relu,
        label=label,
    )
    np.testing.assert_allclose(energies(module, params, label, x), wanted, rtol=1e-4)


def test_first_layers_of_their_own():
    """A first convolution of another width, a first block of another activation; three outputs."""
    module = igebm.IgebmResNet(
        **SMALL | {"num_blocks": (2, 1)},
        first_width=5, activation="swish", first_block_activation="relu",
        final_activation="leaky_relu", num_outputs=3,
    )  # fmt: skip
    params, x = random_params(module), images(module)
    assert params["conv_in"]["kernel"].shape == (3, 3, 2, 5)
    found = energies(module, params, None, x)
    assert found.shape == (3, 3)
    for i in range(3):
        head = {name: leaf[..., i : i + 1] for name, leaf in params["head"].items()}
        wanted = plain.igebm_resnet(
            as_float64(params | {"head": head}), x, stages=(2, 1), act=plain.swish,
            first_act=plain.relu, final_act=plain.leaky_relu,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_strided_network_is_its_equations_also_for_odd_sizes(num_classes):
    module = igebm.IgebmConvNet(
        image_size=13,
        width=2,
        first_width=5,
        multipliers=(1, 3),
        num_classes=num_classes,
        gain_layer=1,
        activation="swish",
    )
    label = None if num_classes is None else np.array([0, 2, 1])
    params, x = random_params(module, label), images(module)
    wanted = plain.igebm_conv_net(
        as_float64(params), x, num_convs=2, act=plain.swish, label=label, gain_layer=1
    )
    np.testing.assert_allclose(energies(module, params, label, x), wanted, rtol=1e-4)


def test_gradient_at_exact_zeros_takes_the_slope_below():
    # Behind the first convolution, which has no bias, black is exactly 0: the derivative there is
    # the left one, so it agrees with a one-sided difference that makes the activation's input fall.
    module = igebm.IgebmResNet(image_size=4, channels=1, width=1, multipliers=(), num_blocks=())
    params = {
        "conv_in": {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)},
        "head": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)},
    }
    module = module.clone(final_activation="leaky_relu")
    gradient = jax.jit(jax.grad(lambda x: evaluate(module, params, None, x).sum()))(
        jnp.zeros((1, 4, 4, 1))
    )
    np.testing.assert_allclose(gradient, np.full((1, 4, 4, 1), 0.2 * 0.2), rtol=1e-6)


def test_dropout_masks_act_on_the_first_convolution_of_every_block():
    module = igebm.IgebmResNet(**SMALL)
    params, x = random_params(module), images(module)
    rng = np.random.default_rng(3)
    masks = [rng.integers(0, 2, (3, *shape)) for shape in module.mask_shapes]
    assert module.mask_shapes == [(8, 8, 3), (4, 4, 3), (4, 4, 6)]
    assert module.clone(patch_size=2).mask_shapes == [(4, 4, 3), (2, 2, 3), (2, 2, 6)]
    wanted = plain.igebm_resnet(
        as_float64(params),
        x,
        stages=SMALL["num_blocks"],
        act=plain.leaky_relu,
        final_act=plain.relu,
        masks=masks,
    )
    masks = [jnp.asarray(mask) for mask in masks]
    actual = energies(module, params, None, x, keep_masks=masks)
    np.testing.assert_allclose(actual, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("module", "conditional", "millions"),
    [
        (igebm.resnet32_large(), False, 18.6),
        (igebm.resnet32(10), True, 5.3),
        (igebm.imagenet32(), True, 89.6),
        (igebm.imagenet128(), True, 21.2),
    ],
)
def test_published_sizes(module, conditional, millions):
    condition = jnp.zeros(1, int) if conditional else None
    assert num_parameters(module, condition) / 1e6 == pytest.approx(millions, rel=0.01)


def test_presets_are_the_published_networks():
    swish = {"activation": "swish", "first_block_activation": "leaky_relu"}
    for found, wanted in [
        (igebm.resnet32_large(), igebm.IgebmResNet(32, 3, 128, 0, (1, 2, 4), (3, 3, 3))),
        (igebm.resnet32(), igebm.IgebmResNet(32, 3, 128, 0, (1, 2, 2), (2, 2, 2))),
        (igebm.resnet32(10), igebm.resnet32().clone(num_classes=10)),
        (igebm.imagenet32(), igebm.IgebmResNet(32, 3, 256, 128, (1, 2, 4), (3, 3, 3), 1000)),
        (
            igebm.imagenet128(),
            igebm.IgebmResNet(
                128, 3, 64, 0, (1, 2, 4, 8, 8), (1, 1, 1, 1, 2), 1000, final_activation="swish",
                **swish,
            ),
        ),
        (igebm.mnist_net(), igebm.IgebmConvNet(28, 1, 64, 64, (1, 2, 4))),
        (igebm.dsprites_net(), igebm.IgebmConvNet(64, 1, 64, 32, (1, 2, 2, 2), 3, 0, 2, "swish")),
        (mdsm.res18(), mdsm.MdsmResNet(32, 3, 128, (2, 4, 8), 3)),
        (mdsm.res12(), mdsm.MdsmResNet(32, 1, 64, (2, 4, 8), 2)),
    ]:  # fmt: skip
        assert found == wanted
    for preset in (
        igebm.resnet32_large, igebm.resnet32, igebm.imagenet32, igebm.imagenet128,
        igebm.mnist_net, igebm.dsprites_net, mdsm.res18, mdsm.res12,
    ):  # fmt: skip
        changes = {"width": 6, "image_size": 64, "channels": 2}
        assert preset(**changes) == preset().clone(**changes)
    for preset in (igebm.resnet32_large, igebm.imagenet32, igebm.imagenet128, igebm.dsprites_net):
        assert preset(7).num_classes == 7


def test_strided_networks_of_vectors_and_of_several_outputs():
    module = igebm.IgebmConvNet(5, width=2, multipliers=(1,), label_size=3, num_outputs=4)
    label = jnp.ones((1, 3))
    shapes = jax.eval_shape(
        module.init_with_output, jax.random.key(0), jnp.zeros((2, 5, 5, 1)), label
    )
    energies, params = shapes[0], shapes[1]["params"]
    assert energies.shape == (2, 4)
    assert params["in_bias_0"].shape == (3, 64)
    assert params["dense"]["kernel"].shape == (module.last_size**2 * 2, 4)
    assert [module.clone(image_size=n).last_size for n in (4, 5, 6)] == [2, 3, 3]


def test_presets_have_the_widths_of_the_papers_rows():
    widths = [shape[-1] for shape in igebm.imagenet32().mask_shapes]
    assert widths == [256] * 3 + [512] * 3 + [1024] * 3
    shapes = igebm.imagenet128().mask_shapes
    assert [shape[-1] for shape in shapes] == [64, 128, 256, 512, 512, 512]
    assert shapes[-1][0] == 4
    # quirk: the last activation of the large network depends on whether there is a label
    assert igebm.resnet32_large().final_activation == "relu"
    assert igebm.resnet32_large(10).final_activation == "leaky_relu"
    assert igebm.resnet32(10).final_activation == igebm.imagenet32().final_activation == "relu"


def test_initialisation_starts_blocks_as_their_shortcuts():
    module = igebm.IgebmResNet(**{**SMALL, "multipliers": (1,), "num_blocks": (1,)}, num_classes=2)
    label = jnp.array([0])
    x = jnp.zeros((1, *module.input_shape))
    params = jax.jit(module.init)(jax.random.key(0), x, label)["params"]
    block = params["stage_0_block_0"]
    assert 0 < np.abs(block["conv2"]["kernel"]).max() < 1e-9
    assert np.std(params["conv_in"]["kernel"]) == pytest.approx(1.0, abs=0.3)
    np.testing.assert_array_equal(block["gain"] + block["gain_offset"], np.ones((2, 3)))
    for name in ("in_bias_1", "in_bias_2"):
        np.testing.assert_array_equal(block[name], np.zeros((2, 3)))


def test_one_hot_labels_and_classes_are_the_same_label():
    module = igebm.IgebmConvNet(image_size=4, width=2, multipliers=(1,), num_classes=4)
    label = np.array([3, 0, 1])
    params, x = random_params(module, label), images(module)
    wanted = energies(module, params, label, x)
    one_hot = np.eye(4, dtype=np.float32)[label]
    np.testing.assert_allclose(energies(module, params, one_hot, x), wanted, rtol=1e-6)
    np.testing.assert_allclose(energies(module, params, 3, x[:1]), wanted[:1], rtol=1e-5)


def test_labels_that_do_not_fit_are_refused():
    conditional = igebm.IgebmResNet(**SMALL, num_classes=4)
    params, x = random_params(conditional, jnp.zeros(1, int)), images(conditional)
    for label, message in [
        (None, "conditional on 4 classes and got no labels: give"),
        (np.array([1, 4, 0]), "label: expected classes 0 to 3, .* got 4"),
        (-1, "label: expected classes 0 to 3, .* got -1"),
        (np.zeros((3, 5), np.float32), r"labels are float32\[3, 5\]: give classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            energies(conditional, params, label, x)
    unconditional = igebm.IgebmResNet(**SMALL)
    with pytest.raises(ValueError, match="the network is unconditional"):
        energies(unconditional, params, np.array([0, 0, 0]), x)


def test_a_traced_class_out_of_range_gives_nan_not_another_class():
    module = igebm.IgebmResNet(**SMALL, num_classes=4)
    params, x = random_params(module, jnp.zeros(1, int)), images(module)
    actual = jax.jit(lambda label: evaluate(module, params, label, x))(jnp.array([0, 7, 3]))
    np.testing.assert_array_equal(np.isnan(actual), [False, True, False])


def test_fields_that_do_not_fit_are_refused():
    def init(**fields):
        module = igebm.IgebmResNet(**{**SMALL, **fields})
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *module.input_shape)))

    with pytest.raises(ValueError, match="expected one that can be halved 2 times"):
        init(image_size=10)
    with pytest.raises(ValueError, match=r"activation: expected one of leaky_relu, .* got 'gelu'"):
        init(activation="gelu")
    with pytest.raises(ValueError, match="2 multipliers and 3 num_blocks: write one of each"):
        init(num_blocks=(1, 1, 1))
