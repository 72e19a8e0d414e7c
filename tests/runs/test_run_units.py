"""What a run says of its data: model units there and back, keys by name, groups of settings."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs import default
from ebm_jax import data, tasks
from ebm_jax.data import Dataset
from ebm_jax.networks.ensemble import Ensemble
from ebm_jax.runs import build, settings
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES = np.array([0, 51, 102, 255] * 6, np.uint8).reshape(6, 2, 2, 1)
POINTS = np.array([[-2.0, 0.0], [2.0, 1.0]], np.float32)
LABELS = np.arange(6, dtype=np.int32)


def run_of(images=IMAGES, value_range=(0.0, 255.0), seed=0, sampling_seed=0, method=None, **data):
    dataset = Dataset("made", "train", images, LABELS[: len(images)], 2, value_range)
    described = settings.Data(**{"low": -3.0, "high": 5.0, "random_flip": False} | data)
    general, sampling = settings.General(seed=seed), settings.Sampling(seed=sampling_seed)
    return build.Run(None, dataset, method, general, described, sampling)


def test_images_in_model_units_and_back():
    """0 to 255 becomes -3 to 5; of dequantized data the middle of each of 256 cells."""
    run = run_of()
    assert run.has_images
    assert not run.has_trajectories
    np.testing.assert_allclose(run.scale(IMAGES)[0].ravel(), [-3, -1.4, 0.2, 5], rtol=1e-6)
    np.testing.assert_allclose(run.to_unit(IMAGES)[0].ravel(), [0, 0.2, 0.4, 1])
    np.testing.assert_allclose(run.from_unit([[0.0, 0.25, 1.0]]), [[-3, -1, 5]])
    assert run.from_unit([0.5]).dtype == np.float32
    np.testing.assert_array_equal(run.to_pixels(run.scale(IMAGES)), IMAGES)
    assert run.intensity_scale(-1.0, 3.0) == pytest.approx((4 / 255, -1))
    np.testing.assert_allclose(run.mean_image().ravel(), [-3, -1.4, 0.2, 5], rtol=1e-6)
    cells = run_of(dequantize=True)
    keys = jax.random.split(jax.random.key(0), len(IMAGES))
    dequantized = np.asarray(cells.preprocess()(keys, IMAGES))
    np.testing.assert_array_equal(np.floor((dequantized + 3) / 8 * 256), IMAGES)
    assert (np.ptp(dequantized, axis=0) > 0.005).all()  # anywhere in a cell of 8/256
    expected = -3 + 8 * (np.array([0, 51, 102, 255]) + 0.5) / 256
    np.testing.assert_allclose(cells.scale(IMAGES)[0].ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(cells.to_unit(IMAGES)[0].ravel(), (expected + 3) / 8)
    every = np.arange(256, dtype=np.uint8).reshape(-1, 2, 2, 1)
    for share in (0.05, 0.95):  # of a cell
        inside = (-3 + 8 * (every + share) / 256).astype(np.float32)
        np.testing.assert_array_equal(cells.to_pixels(inside), every)
    for one in (run, cells):
        np.testing.assert_array_equal(one.to_pixels(one.scale(every)), every)


def test_points_in_model_units_and_back():
    run = run_of(POINTS, (-2.0, 2.0))
    assert not run.has_images
    keys = jax.random.split(jax.random.key(0), 2)
    scaled = run.preprocess()(keys, POINTS)
    np.testing.assert_allclose(scaled, [[-3, 1], [5, 3]])
    np.testing.assert_allclose(run.to_data_units(np.asarray(scaled)), POINTS)
    other = run.dataset._replace(value_range=(-4.0, 4.0))
    np.testing.assert_allclose(run.preprocess(other)(keys, POINTS), [[-1, 1], [3, 2]])


def test_keys_by_name():
    """Those of training follow the run's seed, all others that of sampling."""

    def bits(key):
        return jax.random.key_data(key).tolist()

    plain, trained, sampled = run_of(), run_of(seed=1), run_of(sampling_seed=1)
    init, train = jax.random.split(jax.random.key(0))
    assert bits(plain.key("init")) == bits(init) == bits(sampled.key("init"))
    assert bits(plain.key("train")) == bits(train) == bits(sampled.key("train"))
    assert bits(trained.key("init")) != bits(init)
    assert bits(trained.key("train")) != bits(train)
    assert bits(trained.key("sample")) == bits(plain.key("sample"))
    assert bits(sampled.key("sample")) != bits(plain.key("sample"))
    names = ("init", "train", "sample", "examples")
    assert len({str(bits(plain.key(name))) for name in names}) == 4


def test_random_examples_are_chosen_by_the_seed_of_sampling():
    """All of them where more are asked for, none twice, not mirrored."""
    run = run_of(IMAGES + np.arange(6, dtype=np.uint8)[:, None, None, None] % 200,
                 random_flip=True)  # fmt: skip
    everything = run.random_examples(run.dataset, 100)
    assert everything.shape == IMAGES.shape
    assert everything.dtype == np.float32
    expected = run.scale(run.dataset.images)
    order = np.argsort(everything[:, 0, 0, 0])
    np.testing.assert_allclose(everything[order], expected[np.argsort(expected[:, 0, 0, 0])])
    np.testing.assert_array_equal(run.random_examples(run.dataset, 3), everything[:3])
    others = dataclasses.replace(run, sampling=settings.Sampling(seed=2))
    assert not np.array_equal(others.random_examples(run.dataset, 6), everything)


def test_images_are_mirrored_half_of_the_time():
    run = run_of(random_flip=True)
    keys = jax.random.split(jax.random.key(1), 200)
    images = np.broadcast_to(IMAGES[:1], (200, 2, 2, 1))
    found = np.asarray(run.preprocess()(keys, images))
    straight = run.scale(IMAGES[:1])[0]
    is_straight = np.isclose(found, straight, rtol=1e-6).all((1, 2, 3))
    is_mirrored = np.isclose(found, straight[:, ::-1], rtol=1e-6).all((1, 2, 3))
    assert (is_straight | is_mirrored).all()
    assert 70 < is_mirrored.sum() < 130
    unflipped = np.asarray(run.preprocess(flip=False)(keys, images))
    np.testing.assert_allclose(unflipped, np.broadcast_to(straight, unflipped.shape), rtol=1e-6)


def test_networks_of_a_method_are_changed_and_nothing_else():
    @dataclasses.dataclass(frozen=True)
    class Method:
        """With one network."""

        network: nn.Module
        width: int = 3

    run = run_of(method=Method(nn.Dense(4)))
    changed = run._with_networks(lambda network: network.clone(features=7))
    assert (changed.method.network.features, changed.method.width) == (7, 3)
    assert run.method.network.features == 4
    assert run_of(method="none").in_float32().method == "none"


def test_settings_that_only_images_have():
    images, points = run_of().dataset, run_of(POINTS, (-2.0, 2.0)).dataset
    build._check_data_settings(settings.Data(dequantize=True), images)
    for name in ("dequantize", "random_flip"):
        described = settings.Data(**{"random_flip": False} | {name: True})
        with pytest.raises(ValueError, match=f"data.{name}: expected False, as made has no images"):
            build._check_data_settings(described, points)
    plain = settings.Data(random_flip=False, low=0.0)
    build._check_data_settings(plain, points)
    with pytest.raises(ValueError, match=r"data.low: expected -2, as states .* got 0"):
        build._check_data_settings(plain, points._replace(trajectories="some"))
    exact = settings.Data(random_flip=False, low=-2.0, high=2.0)
    build._check_data_settings(exact, points._replace(trajectories="some"))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.2)])
def test_a_range_has_a_width(low, high):
    config = default.get_config()
    config.data.low, config.data.high = low, high
    for check in (build.check_sections, tasks.check):
        with pytest.raises(ConfigError, match=f"data.low: expected less than data.high, {high}, "):
            check(config)
    config.data.low, config.data.high = low, low + 1
    assert build.check_sections(config)[1]["data"].high == low + 1


def test_classes_of_a_network_that_the_data_do_not_have():
    config = default.get_config()
    config.network = default.network("igebm_resnet", num_classes=7)
    for num_classes, expected in ((2, 2), (1, 0)):
        dataset = run_of().dataset._replace(num_classes=num_classes)
        with pytest.raises(
            ConfigError, match=f"num_classes: expected {expected}, the classes of made, got 7"
        ):
            build.build(config, dataset)


def test_what_a_result_was_measured_on():
    config = default.get_config()
    run = dataclasses.replace(run_of(sampling_seed=8, name="mnist", split="test"), config=config)
    found = TrainedRun(run, 70, {}, 0.75).provenance(12)
    assert found.pop("versions")["jax"] == jax.__version__
    assert found == {
        "checkpoint_step": 70, "ensemble": None, "weights": "EMA", "ema_decay": 0.75,
        "method": config.method.to_dict(), "sampler": config.sampler.to_dict(),
        "num_samples": 12, "sampling_seed": 8, "data": {"name": "mnist", "trained_on": "test"},
    }  # fmt: skip
    config.ensemble.update(checkpoints=(1, 2), combine="sum")
    assert TrainedRun(run, 70, {}, 0.75).provenance(12)["ensemble"] == {
        "checkpoints": (1, 2), "combine": "sum", "temperature": 1.0,
    }  # fmt: skip


def test_ensembles_are_of_methods_of_one_network():
    @dataclasses.dataclass(frozen=True)
    class TwoNetworks:
        energy_network: object = None
        generator: object = None

    config = default.get_config()
    run = dataclasses.replace(run_of(method=TwoNetworks()), config=config)
    with pytest.raises(ConfigError, match=r"expected \(\), as TwoNetworks is no method of one net"):
        build.make_ensemble(run, 2)


def test_every_setting_of_the_data_is_asked_of_its_set(monkeypatch):
    """Settings that say nothing are None."""
    asked = []
    monkeypatch.setattr(data, "load_dataset", lambda *given, **how: asked.append((given, how)))
    config = default.get_config()
    config.data.name = "shapes"
    build.load_split(config, "test")
    config.data_dir = "there"
    config.data.update(
        pad_to=34, image_size=17, label="size", path="a/b", values=(0.0, 2.0), context=3,
        actions=True, combinations="both", seen_places=0.3, reference_size=0.75, places_seed=5,
    )  # fmt: skip
    build.load_split(config, "train")
    names = (
        "data_dir", "pad_to", "image_size", "label", "path", "values", "combinations", "context",
        "actions",
    )  # fmt: skip
    assert asked[0] == (("shapes", "test"), dict.fromkeys(names))
    assert asked[1] == (("shapes", "train"), {
        "data_dir": "there", "pad_to": 34, "image_size": 17, "label": "size", "path": "a/b",
        "values": (0.0, 2.0), "combinations": data.Combinations("both", 0.3, 0.75, 5),
        "context": 3, "actions": True,
    })  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Of the method beneath."""

    num_steps: int = setting(3, "steps", at_least=1)


@dataclasses.dataclass(frozen=True)
class Taking:
    """Takes all that there is, and says what it was initialized with."""

    network: object = None
    low: float = 0.0
    high: float = 1.0
    data_moments: object = None
    data_mixture: object = None
    labels: object = "usual"
    sampler: Sampler = Sampler()
    width: int = setting(2, "of it", at_least=1)

    def init(self, rng_key, batch):
        """(parameters, state)."""
        return {"key": jax.random.key_data(rng_key), **batch}, {}


@dataclasses.dataclass(frozen=True)
class TakingNothing:
    """Takes two networks and nothing else."""

    energy: object = None
    generator: object = None
    sampler: Sampler = Sampler()


@pytest.fixture
def taking(monkeypatch):
    """A config whose method is `Taking`; networks are described by their groups."""
    monkeypatch.setattr(build, "METHODS", {"taking": Taking, "nothing": TakingNothing})
    monkeypatch.setattr(
        build, "_make_network", lambda config, group, dataset: (group, dataset.name)
    )
    config = default.get_config()
    with config.unlocked():
        config.method = {"name": "taking", "width": 5}
        config.sampler = {"num_steps": 4}
    config.data.update(low=-3.0, high=5.0, random_flip=False)
    config.training.batch_size = 8
    return config


def test_a_method_takes_what_its_fields_are_called(taking):
    dataset = run_of().dataset
    facts = DataFacts("moments", "given in turn", "mixture")
    made = build.make_method(taking, dataset, facts)
    assert made == Taking(
        ("", "made"), -3.0, 5.0, "moments", "mixture", "given in turn", Sampler(4), 5
    )
    assert build.make_method(taking, dataset, DataFacts()).labels == "usual"
    with taking.unlocked():
        taking.method = {"name": "nothing"}
        taking.network = {"energy": {"name": "mlp"}, "generator": {"name": "mlp"}}
    made = build.make_method(taking, dataset, facts)
    assert made == TakingNothing(("energy", "made"), ("generator", "made"), Sampler(4))


def test_a_run_is_built_of_its_parts(taking, monkeypatch, tmp_path):
    """Of the data set that is given, or else of the one that is named."""
    asked, given = [], run_of().dataset
    monkeypatch.setattr(build, "load_split", lambda config, split: asked.append(split) or given)
    monkeypatch.setattr(
        build.data_facts, "of_data", lambda *about: asked.append(about) or DataFacts()
    )
    taking.data.split = "others"
    run = build.build(taking, workdir=tmp_path)
    assert asked == ["others", (taking, given, tmp_path)]
    assert (run.config, run.dataset, run.data.split) == (taking, given, "others")
    other = given._replace(name="other")
    assert build.build(taking, other).dataset is other
    assert asked[2:] == [(taking, other, None)]
    run.held_out()
    assert asked[3:] == ["test"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.method = None
    points = run_of(POINTS, (-2.0, 2.0)).dataset
    taking.data.dequantize = True
    with pytest.raises(ConfigError, match=r"^data.dequantize: expected False, as made has no imag"):
        build.build(taking, points)
    taking.data.dequantize = False
    taking.training.batch_size = 12
    with pytest.raises(ConfigError, match=r"^training.batch_size: expected a multiple of the 8 "):
        build.build(taking, given)
    taking.training.batch_size = 8
    monkeypatch.setattr(build, "init_train_state", init_that_fails)
    with pytest.raises(ConfigError, match=r"^the network does not fit$"):
        build.build(taking, given)


def init_that_fails(rng_key, **_):
    raise ValueError("the network does not fit")


def test_initial_parameters_are_on_the_host(taking):
    """Of a batch at the lowest value, by the key of initialization."""
    labels = np.ones((6, 3), np.float32)
    run = dataclasses.replace(
        run_of(seed=4, method=Taking()), config=taking,
        dataset=run_of().dataset._replace(labels=labels),
    )  # fmt: skip
    state = build.init_state(run)
    assert {type(leaf) for leaf in jax.tree.leaves(state)} == {np.ndarray}
    np.testing.assert_array_equal(state.params["key"], jax.random.key_data(run.key("init")))
    np.testing.assert_array_equal(state.params["image"], np.full((8, 2, 2, 1), -3.0))
    np.testing.assert_array_equal(state.params["label"], np.zeros((8, 3)))
    assert state.params["label"].dtype == np.float32
    template = build.params_template(run)
    assert (template["image"].shape, template["label"].shape) == ((8, 2, 2, 1), (8, 3))


def test_an_optimizer_for_each_network():
    """Each with its own rate: of SGD, the update of a gradient of one."""
    config = default.get_config()
    with config.unlocked():
        config.optimizer = {
            "a": default.optimizer("adam", learning_rate=0.5, warmup_steps=0, schedule="constant"),
            "b": default.optimizer("adam", learning_rate=0.25, warmup_steps=0, schedule="constant"),
        }
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    made = build.make_optimizer(config)
    updates, _ = made.update(jax.tree.map(np.ones_like, params), made.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.5, rtol=1e-3)
    np.testing.assert_allclose(updates["b"], -0.25, rtol=1e-3)
    config.optimizer.b.learning_rate = -1.0
    with pytest.raises(ValueError, match=r"^optimizer\.b\.learning_rate: expected a number > 0"):
        build.make_optimizer(config)


def test_ensembles_of_energies_that_are_not_in_nats():
    """Means and sums alone, at temperature 1."""

    @dataclasses.dataclass(frozen=True)
    class OfOne:
        network: nn.Module
        energy_in_nats: bool = False

    config = default.get_config()
    dense = nn.Dense(4)

    def ensemble(in_nats, combine, temperature=1.0):
        config.ensemble.update(combine=combine, temperature=temperature)
        run = dataclasses.replace(run_of(method=OfOne(dense, in_nats)), config=config)
        return build.make_ensemble(run, 3).method.network

    assert ensemble(in_nats=False, combine="sum") == Ensemble(dense, 3, "sum", 1.0)
    assert ensemble(in_nats=True, combine="mixture", temperature=2.0) == Ensemble(
        dense, 3, "mixture", 2.0
    )
    for combine, temperature in (("mixture", 1.0), ("mean", 2.0)):
        with pytest.raises(ConfigError) as error:
            ensemble(False, combine, temperature)
        assert str(error.value) == (
            f"ensemble.combine {combine!r} at temperature {temperature:g} wants energies in nats, "
            "which this method's networks give times s_t^2: expected 'mean' or 'sum', temperature 1"
        )
    with pytest.raises(ConfigError) as error:
        ensemble(in_nats=True, combine="cycle")
    assert str(error.value) == (
        "ensemble.combine: expected 'mean', 'sum' or 'mixture', got 'cycle', which is for the "
        f"chains of contrastive_divergence on images; this is {config.method.name} on made"
    )


def test_labels_of_a_network_that_the_data_do_not_have():
    """A label's values are asked of networks that take labels alone."""
    config = default.get_config()
    config.network = default.network("igebm_resnet", label_size=2)
    labelled = run_of().dataset._replace(labels=np.zeros((6, 3), np.float32), num_classes=1)
    for dataset, expected in ((labelled, 3), (run_of().dataset, 0)):
        with pytest.raises(ConfigError) as error:
            build._make_network(config, "", dataset)
        assert str(error.value) == (
            f"network.label_size: expected {expected}, the values of a label of made, got 2"
        )


def test_a_network_is_made_for_the_data_and_as_it_is_computed(monkeypatch):
    """One that takes no class is of data with classes too."""
    asked = []
    monkeypatch.setattr(
        build, "make_network", lambda *given, **how: asked.append((given, how)) or nn.Dense(4)
    )
    config = default.get_config()
    config.compute.update(dtype="bfloat16", formulation="dense", remat=True)
    config.network = default.network("mlp", width=5)
    assert build._make_network(config, "", run_of().dataset) == nn.Dense(4)
    (((cls, shape), how),) = asked
    assert (cls, shape) == (build.NETWORKS["mlp"], (2, 2, 1))
    settings_of_it = config.network.to_dict()
    del settings_of_it["name"]
    assert how == {"dtype": "bfloat16", "formulation": "dense", "remat": True, **settings_of_it}


@pytest.mark.parametrize(
    ("section", "field", "value", "says"),
    [
        ("method", "step_scale", -1.0, "method.step_scale: expected a number >"),
        ("sampler", "num_steps", -1, "sampler.num_steps: expected a whole number >= 0, got -1"),
        ("optimizer", "b1", 1.0, "optimizer.b1: expected a number >= 0 and < 1, got 1.0"),
        ("network", "width", 1, "network.width: expected a whole number >= 4, got 1"),
        ("compute", "microbatch", -2, "compute.microbatch: expected a whole number >= 0, got -2"),
    ],
)
def test_every_section_is_checked_without_data(section, field, value, says):
    config = default.get_config()
    build.check_sections(config)
    config[section][field] = value
    with pytest.raises(ConfigError) as error:
        build.check_sections(config)
    assert str(error.value).startswith(says)
