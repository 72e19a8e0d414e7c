"""Networks for examples of a shape, and the same ones in another arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.networks import (
    ConditionalMLP,
    EnergyMLP,
    Ensemble,
    FilmResNet,
    FlatImages,
    FunctionNetwork,
    IgebmConvNet,
    IgebmMLP,
    IgebmResNet,
    LevelConstants,
    MdsmResNet,
    RecoveryResNet,
)
from ebm_jax.networks.registry import in_float32, make_network, with_formulation


def test_the_shape_of_an_example_is_the_networks():
    assert make_network(EnergyMLP, (5,), width=8) == EnergyMLP(5, width=8)
    found = make_network(IgebmMLP, (2, 3, 4), num_classes=0)
    assert found == FlatImages(IgebmMLP(24, num_classes=None), (2, 3, 4))
    assert make_network(IgebmMLP, (2,), num_classes=7).num_classes == 7
    assert make_network(IgebmConvNet, (6, 6, 2), num_classes=3) == IgebmConvNet(
        6, 2, num_classes=3, dtype=jnp.float32
    )
    chosen = {"formulation": "dense", "remat": True, "width": 6}
    found = make_network(MdsmResNet, (8, 8, 5), dtype="bfloat16", **chosen)
    assert found == MdsmResNet(8, 5, dtype=jnp.bfloat16, **chosen)


def test_shapes_without_settings():
    """Points of the plane; images in color, but for the strided networks' gray ones."""
    for vectors in (EnergyMLP, IgebmMLP, ConditionalMLP):
        assert vectors().input_shape == (2,)
    for images in (RecoveryResNet, FilmResNet, IgebmResNet, MdsmResNet):
        network = images(16)
        assert (network.input_shape, network.remat) == ((16, 16, 3), False)
        assert (network.formulation, network.dtype) == ("auto", jnp.float32)
    assert IgebmConvNet(16).input_shape == (16, 16, 1)
    assert (
        IgebmMLP().num_outputs == IgebmConvNet(16).num_outputs == IgebmResNet(16).num_outputs == 1
    )


def test_what_does_not_fit_is_refused():
    square = "RecoveryResNet takes square images, not examples of shape"
    for network, shape, settings, says in [
        (RecoveryResNet, (8, 6, 1), {}, rf"{square} \(8, 6, 1\): set data.pad_to, or choose"),
        (RecoveryResNet, (8, 8), {}, rf"{square} \(8, 8\)"),
        (IgebmConvNet, (8, 8, 1), {"remat": True}, "remat: expected False, as IgebmConvNet has no"),
        (EnergyMLP, (2,), {"width": 0}, "^network.width: expected a whole number >= 4, got 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            make_network(network, shape, **settings)


def test_another_arithmetic_reaches_the_networks_inside():
    def of(**arithmetic):
        inner = make_network(RecoveryResNet, (4, 4, 1), width=8, **arithmetic)
        return Ensemble(LevelConstants(inner, 3), 2, "sum", temperature=0.5)

    half = of(dtype="bfloat16", formulation="dense")
    assert in_float32(half) == of(formulation="dense")
    assert with_formulation(half, "native") == of(dtype="bfloat16", formulation="native")
    # One key for what is compiled.
    assert len({in_float32(half.base.base), of(formulation="dense").base.base}) == 1
    without = EnergyMLP(2)
    assert in_float32(without) is without


def test_images_are_vectors_row_by_row():
    base = FunctionNetwork(lambda _, x, shift: x @ jnp.arange(12.0) + shift, lambda _: (), (12,))
    flat = FlatImages(base, (2, 3, 2))
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)
    shift = np.arange(4.0)
    params = flat.init(jax.random.key(0), x, shift)["params"]
    assert params.keys() == {"base"}
    found = flat.apply({"params": params}, x, shift)
    np.testing.assert_allclose(found, x.reshape(4, 12) @ np.arange(12) + shift, rtol=1e-5)
    assert (flat.input_shape, flat.label_size, flat.num_classes) == ((2, 3, 2), 0, None)
    assert flat.spectral_norm_mode is None
    assert FlatImages(ConditionalMLP(12, label_size=5), (2, 3, 2)).label_size == 5


def test_constants_of_levels_start_as_those_of_a_standard_normal():
    """Beside any network; one of 6 values has the constant log((2 pi)^(6 / 2))."""
    base = FunctionNetwork(lambda _, x, level: jnp.sum(x, (1, 2)), lambda _: (), (2, 3))
    network = LevelConstants(base, 3)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    level = np.array([2, 0, 1, 2])
    params = network.init(jax.random.key(0), x, level)["params"]
    np.testing.assert_allclose(params["per_value"], np.full(3, np.log(2 * np.pi) / 2), rtol=1e-7)
    params["per_value"] = jnp.array([1.0, 10.0, 100.0])
    for condition, wanted in ((level, [600, 6, 60, 600]), (1, 60)):
        found = network.apply({"params": params}, x, condition)
        np.testing.assert_allclose(found, x.sum((1, 2)) + wanted, rtol=1e-6)
    assert (network.input_shape, network.spectral_norm_mode) == ((2, 3), None)


def test_constants_of_levels_have_no_norm():
    mode = LevelConstants(RecoveryResNet(4, 1), 3).spectral_norm_mode
    assert mode(("base", "conv_in", "kernel")) == "unit"
    assert mode(("base", "resolution_0_block_1", "conv2", "kernel")) == "cap"
    assert mode(("base", "temb_dense_2", "kernel")) is None
    assert mode(("other", "conv_in", "kernel")) is None
    assert mode(("per_value",)) is None
