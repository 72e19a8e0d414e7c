"""What the fields of networks, of their arithmetic and of ensembles do, from a config on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import full_bars
from effects_table import changed, shows

from configs import default
from ebm_jax import parallel, tasks
from ebm_jax.data import Dataset
from ebm_jax.data.sources.trajectories import cut
from ebm_jax.networks.film_resnet import FilmResNet
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.runs import build, preview
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import load_trained

__all__ = ["full_bars"]

SMALL = {
    "recovery_resnet": {"width": 4, "multipliers": (1,), "num_blocks": 1},
    "igebm_resnet": {"width": 4, "multipliers": (1,), "num_blocks": (1,)},
    "igebm_conv": {"width": 4, "first_width": 4, "multipliers": (1,), "gain_layer": 0},
    "igebm_mlp": {"width": 4, "depth": 2},
    "mdsm_resnet": {"width": 4, "multipliers": (1,), "num_blocks": 1},
    "film_resnet": {"width": 4, "multipliers": (1,), "num_blocks": 1},
    "mlp": {"width": 4, "depth": 1},
    "conditional_mlp": {"label_size": 4, "width": 4, "depth": 1},
}
DATA = {"mlp": "rings", "conditional_mlp": "pendulum"}
METHOD = {
    "recovery_resnet": "recovery_likelihood",
    "film_resnet": "dual_score_matching",
    "mlp": "energy_discrepancy",
}


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    def load_split(config, split):
        if config.data.name == "cifar10":
            images, labels = np.zeros((16, 8, 8, 1), np.uint8), np.zeros(16, np.int32)
            if size := config.network.get("label_size", 0):
                labels = np.random.default_rng(0).normal(size=(16, size)).astype(np.float32)
            return Dataset("made", split, images, labels, 1 if size else 10, (0.0, 255.0))
        if config.data.name == "pendulum":
            states = np.zeros((2, 3, 2)) + np.arange(2).reshape(2, 1, 1)
            context = config.network.label_size // 2
            padded = np.repeat(states, 2, axis=1)
            return cut("pendulum", split, padded, of_training=states, columns="ab", context=context)
        points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
        return Dataset("rings", split, points, np.zeros(400, np.int32), 1, (-4.0, 4.0))

    monkeypatch.setattr(build, "load_split", load_split)


def config_of(network, *fields, **values):
    method = METHOD.get(network, "contrastive_divergence")
    config = default.get_config()
    config.data.update(name=DATA.get(network, "cifar10"), random_flip=False)
    if network == "conditional_mlp":
        config.data.update(low=-10.0, high=10.0)
    config.network = default.network(network, **{**SMALL[network], **values})
    config.method = default.method(method)
    config.sampler = default.sampler(method)
    config.training.batch_size = 16
    return changed(config, *(f"network:{network}.{field}" for field in fields))


def shapes(config):
    """{path of a parameter: shape}."""
    tree = build.params_template(build.build(config))
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(p.key for p in path): leaf.shape for path, leaf in flat}


def primitives(config):
    """Names of the primitives of the network, one for each call."""
    network, found = build.build(config).method.network, []
    x = jnp.zeros((1, *network.input_shape))
    condition = [jnp.array(0)] if isinstance(network, RecoveryResNet | FilmResNet) else []
    params = jax.eval_shape(network.init, jax.random.key(0), x, *condition)

    def collect(jaxpr):
        for equation in jaxpr.eqns:
            found.append(equation.primitive.name)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    collect(inner)

    collect(jax.make_jaxpr(lambda p, x: network.apply(p, x, *condition))(params, x).jaxpr)
    return found


OF_LEVELS = [
    f"network:{network}.{name}"
    for network in ("recovery_resnet", "film_resnet")
    for name in SMALL[network]
]


@shows(*OF_LEVELS)
@pytest.mark.parametrize(
    ("network", "first_dense", "last_dense", "num_blocks"),
    [
        ("recovery_resnet", "temb_dense_0", "temb_dense_2", 2),
        ("film_resnet", "condition", "head", 3),
    ],
)
def test_resnets_of_levels(network, first_dense, last_dense, num_blocks):
    usual = shapes(config_of(network))
    assert usual["conv_in/kernel"] == (3, 3, 1, 4)
    blocks = {path.partition("/")[0] for path in usual if path.startswith("resolution")}
    assert blocks == {"resolution_0_block_0"}
    wider = shapes(config_of(network, "width"))
    assert wider["conv_in/kernel"] == (3, 3, 1, 6)
    assert wider[f"{first_dense}/kernel"] == (6, 24)
    more = shapes(config_of(network, "num_blocks"))
    assert f"resolution_0_block_{num_blocks - 1}/conv1/kernel" in more
    assert f"resolution_0_block_{num_blocks}/conv1/kernel" not in more
    deeper = shapes(config_of(network, "multipliers"))
    assert deeper["resolution_1_block_0/conv1/kernel"] == (3, 3, 4, 12)
    assert deeper[f"{last_dense}/kernel"] == (16, 12)


OF_RESNET = [
    f"network:igebm_resnet.{name}"
    for name in (*SMALL["igebm_resnet"], "first_width", "num_classes")
]


@shows(*OF_RESNET)
def test_igebm_resnet():
    first = shapes(config_of("igebm_resnet", "first_width"))
    assert first["conv_in/kernel"] == (3, 3, 1, 6)
    assert first["stage_0_block_0/conv1/kernel"] == (3, 3, 6, 4)
    assert shapes(config_of("igebm_resnet", "width"))["conv_in/kernel"] == (3, 3, 1, 6)
    more = shapes(config_of("igebm_resnet", "num_blocks"))
    assert {path.partition("/")[0] for path in more if path.startswith("stage")} == {
        "stage_0_block_0",
        "stage_0_block_1",
    }
    assert shapes(config_of("igebm_resnet", "multipliers"))["head/kernel"] == (12, 1)
    usual, of_classes = (shapes(config_of("igebm_resnet", *f)) for f in ((), ("num_classes",)))
    of_block = {path.rpartition("/")[2] for path in usual if of_classes[path] != usual[path]}
    assert "gain" in of_block
    assert usual["stage_0_block_0/gain"] == (4,)
    for name in of_block:
        assert of_classes[f"stage_0_block_0/{name}"] == (10, *usual[f"stage_0_block_0/{name}"])


OF_CONV = [f"network:igebm_conv.{name}" for name in (*SMALL["igebm_conv"], "num_classes")]


@shows(*OF_CONV)
def test_igebm_conv():
    usual = shapes(config_of("igebm_conv"))
    assert usual["conv_0/kernel"] == (4, 4, 4, 4)
    assert shapes(config_of("igebm_conv", "width"))["conv_0/kernel"] == (4, 4, 4, 6)
    first = shapes(config_of("igebm_conv", "first_width"))
    assert first["conv_in/kernel"] == (3, 3, 1, 6)
    assert first["conv_0/kernel"] == (4, 4, 6, 4)
    deeper = shapes(config_of("igebm_conv", "multipliers"))
    assert (deeper["conv_0/kernel"], deeper["conv_1/kernel"]) == ((4, 4, 4, 8), (4, 4, 8, 12))

    def gain(*fields):
        found = shapes(config_of("igebm_conv", "multipliers", "num_classes", *fields))
        (shape,) = {s for path, s in found.items() if "gain" in path and 10 in s}
        return shape

    assert gain() == (10, 8)
    assert gain("gain_layer") == (10, 12)


@shows(*(f"network:igebm_mlp.{name}" for name in ("width", "depth", "num_classes")))
def test_igebm_mlp():
    usual = shapes(config_of("igebm_mlp"))
    assert {usual[f"base/hidden_{i}/gain"] for i in (0, 1)} == {(4,)}
    assert usual["base/hidden_0/dense/kernel"] == (64, 4)
    assert shapes(config_of("igebm_mlp", "width"))["base/hidden_1/dense/kernel"] == (6, 6)
    assert set(shapes(config_of("igebm_mlp", "depth"))) - set(usual) == {
        f"base/hidden_2/{name}" for name in ("dense/kernel", "gain", "in_bias")
    }
    of_classes = shapes(config_of("igebm_mlp", "num_classes"))
    assert of_classes["base/hidden_0/in_bias"] == (10, 64)
    assert of_classes["base/hidden_1/gain"] == (10, 4)


IGEBM = ("igebm_resnet", "igebm_conv", "igebm_mlp")


@pytest.mark.parametrize("network", IGEBM)
@shows(*(f"network:{network}.label_size" for network in IGEBM))
def test_labels_of_values(network):
    """A gain of y G + o, and samples that have the labels of the data in turn."""
    run = build.build(config_of(network, "label_size"))
    gains = [leaf for leaf in jax.tree.leaves(build.params_template(run)) if leaf.shape[0] == 2]
    assert gains
    labels = run.dataset.labels
    np.testing.assert_array_equal(run.method.labels, labels)
    params, _ = run.method.init(
        jax.random.key(0), {"image": jnp.zeros((16, 8, 8, 1)), "label": jnp.asarray(labels)}
    )
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    sample = jax.jit(run.method.sample)
    one = dataclasses.replace(run.method, labels=labels[3:4])
    in_turn = sample(params, jax.random.key(0), jnp.array([3, 19, 4]))
    alone = jax.jit(one.sample)(params, jax.random.key(0), jnp.array([3, 19, 4]))
    np.testing.assert_allclose(in_turn[:2], alone[:2], atol=1e-5)
    assert np.abs(in_turn[2] - alone[2]).max() > 1e-6
    with pytest.raises(ValueError, match=r"expected a density of examples alone.*labels of 2 val"):
        run.method.densities(params).energy(jnp.array(0))
    with pytest.raises(ConfigError, match=r"label_size: expected 2, the values of a label of made"):
        build.build(config_of(network, "num_classes"), run.dataset)


RESNETS = ["recovery_resnet", "igebm_resnet", "mdsm_resnet", "film_resnet"]


@pytest.mark.parametrize("network", RESNETS)
@shows(*(f"network:{name}.patch_size" for name in RESNETS))
def test_patch_size(network):
    assert shapes(config_of(network))["conv_in/kernel"] == (3, 3, 1, 4)
    assert shapes(config_of(network, "patch_size"))["conv_in/kernel"] == (3, 3, 4, 4)


@shows(
    "network:igebm_resnet.activation",
    "network:igebm_resnet.first_block_activation",
    "network:igebm_resnet.final_activation",
    "network:igebm_conv.activation",
)
def test_activations():
    """A swish is a logistic each: convolution, two of a block, last of it; the last alone."""
    for network, fields, number in (
        ("igebm_resnet", (), 0),
        ("igebm_resnet", ("final_activation",), 1),
        ("igebm_resnet", ("first_block_activation",), 2),
        ("igebm_resnet", ("activation",), 3),
        ("igebm_resnet", ("activation", "final_activation"), 4),
        ("igebm_conv", (), 0),
        ("igebm_conv", ("activation",), 3),
    ):
        assert primitives(config_of(network, *fields)).count("logistic") == number


@shows(*(f"network:mdsm_resnet.{name}" for name in SMALL["mdsm_resnet"]))
def test_mdsm_resnet():
    assert shapes(config_of("mdsm_resnet", "width"))["conv_in/kernel"] == (3, 3, 1, 6)
    more = shapes(config_of("mdsm_resnet", "num_blocks"))
    assert {path.partition("/")[0] for path in more if path.startswith("stage")} == {
        "stage_0_block_0",
        "stage_0_block_1",
    }
    wider = shapes(config_of("mdsm_resnet", "multipliers"))
    assert wider["stage_0_block_0/conv2/kernel"] == (3, 3, 4, 12)


@shows(*(f"network:mlp.{name}" for name in ("width", "depth", "num_frequencies", "frequency")))
def test_mlp():
    usual = shapes(config_of("mlp"))
    assert usual["hidden_0/kernel"] == (2, 4)
    assert shapes(config_of("mlp", "width"))["hidden_0/kernel"] == (2, 6)
    deeper = shapes(config_of("mlp", "depth"))
    assert deeper["hidden_1/kernel"] == (4, 4)
    assert "hidden_2/kernel" not in deeper
    waves = shapes(config_of("mlp", "num_frequencies"))
    assert waves["frequencies/kernel"] == (2, 5)
    assert waves["hidden_0/kernel"] == (2 + 10, 4)
    for fields, deviation in (((), 1.0), (("frequency",), 7.0)):
        run = build.build(config_of("mlp", *fields, num_frequencies=200))
        kernel = run.method.init(jax.random.key(0), {"image": jnp.zeros((1, 2))})[0]
        found = np.std(kernel["frequencies"]["kernel"])
        assert found == pytest.approx(deviation, rel=0.15)  # four standard errors of 400


@shows(
    *(f"network:conditional_mlp.{name}" for name in ("label_size", "width", "depth", "activation"))
)
def test_conditional_mlp():
    usual = shapes(config_of("conditional_mlp"))
    assert usual["context/kernel"] == (4, 4)
    assert usual["hidden_0/kernel"] == (2, 4)
    assert shapes(config_of("conditional_mlp", "label_size"))["context/kernel"] == (6, 4)
    wider = shapes(config_of("conditional_mlp", "width"))
    assert wider["context/kernel"] == (4, 6)
    assert wider["energy/kernel"] == (6, 1)
    deeper = shapes(config_of("conditional_mlp", "depth"))
    assert deeper["hidden_1/kernel"] == (4, 4)
    assert "hidden_1/kernel" not in usual
    inputs = jnp.ones((1, 2)), jnp.ones((1, 4))
    found = {}
    for fields in ((), ("activation",)):
        network = build.build(config_of("conditional_mlp", *fields)).method.network
        found[fields] = str(jax.make_jaxpr(network.init)(jax.random.key(0), *inputs))
    assert "logistic" in found[("activation",)]
    assert "logistic" not in found[()]


@shows("compute.dtype", "compute.formulation")
def test_arithmetic():
    """Rounding to 8 bits changes energies by about 2^-8 of them; a matrix product does not."""
    config = config_of("igebm_conv")
    assert "conv_general_dilated" in primitives(config)
    assert "conv_general_dilated" not in primitives(changed(config, "compute.formulation"))
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    energies = {}
    for field in (None, "compute.dtype", "compute.formulation"):
        method = build.build(changed(config, *([field] if field else []))).method
        params, _ = method.init(jax.random.key(0), {"image": jnp.zeros((16, 8, 8, 1))})
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        energies[field] = jax.jit(method.network.apply)({"params": params}, x)
        assert energies[field].dtype == jnp.float32
    size = np.max(np.abs(energies[None]))
    dense = np.max(np.abs(energies["compute.formulation"] - energies[None])) / size
    rounded = np.max(np.abs(energies["compute.dtype"] - energies[None])) / size
    assert dense < 1e-5
    assert 1e-4 < rounded < 0.1


@pytest.mark.parametrize("network", RESNETS)
@shows("compute.remat")
def test_blocks_that_are_computed_again(network):
    config = config_of(network)
    marks = {"remat", "remat2", "checkpoint"}
    assert not marks & set(primitives(config))
    again = primitives(changed(config, "compute.remat"))
    assert sum(again.count(name) for name in marks) == 1
    with pytest.raises(ConfigError, match="remat: expected False, as EnergyMLP has no residual bl"):
        build.build(changed(config_of("mlp"), "compute.remat"))


@shows("ensemble.checkpoints", "ensemble.combine", "ensemble.temperature", "sampling.batch_size")
def test_ensembles_and_batches_of_samples(tmp_path, monkeypatch):
    """On two checkpoints of a trained run: every mode sees the energies of both together."""
    monkeypatch.setattr(preview, "figure", lambda *_: np.zeros((8, 8, 3), np.uint8))
    config = config_of("mlp")
    config.training.update(num_steps=2, ema_decay=0.0)
    config.optimizer = default.optimizer("adam", learning_rate=0.3)
    config.train.update(checkpoint_every=1, sample_every=0)
    config.sampler.update(num_steps=2)
    config.sampling.update(num_samples=16, batch_size=16)
    assert tasks.run("train", config, tmp_path) == 0
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32))
    base_energy = jnp.sum(x**2, 1) / (2 * 16.0)

    def energies(*fields):
        trained = load_trained(changed(config, *fields), tmp_path)
        found = trained.run.method.densities(trained.params).energy(jnp.zeros((), jnp.int32))(x)
        return np.asarray(found - base_energy), trained

    newest, trained = energies()
    assert trained.step == 2
    config.ensemble.checkpoints = (1,)
    oldest, trained = energies()
    assert trained.step == 1
    assert np.max(np.abs(newest - oldest)) > 1e-3
    for fields, expected in (
        ((), (newest + oldest) / 2),
        (("ensemble.combine",), newest + oldest),
        (("ensemble.temperature",), (newest + oldest) / 8),
    ):
        found, _ = energies("ensemble.checkpoints", *fields)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    config.ensemble.checkpoints = ()
    sizes, usual = [], parallel.map_examples

    def counted(fn, batch_size):
        sizes.append(batch_size)
        return usual(fn, batch_size)

    monkeypatch.setattr(parallel, "map_examples", counted)
    samples = []
    for fields in ((), ("sampling.batch_size",)):
        assert tasks.run("sample", changed(config, *fields), tmp_path) == 0
        (file,) = (tmp_path / "sample").glob("samples.np[yz]")
        loaded = np.load(file)
        samples.append(loaded if file.suffix == ".npy" else loaded["x"])
    assert sizes == [16, 8]
    assert samples[0].shape[0] == 16
    np.testing.assert_allclose(samples[0], samples[1], rtol=1e-5, atol=1e-6)
