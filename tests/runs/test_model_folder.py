"""Models as folders: what --mode=card writes is what loads, samples and starts other runs."""

import hashlib
import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from main_processes import TINY, run_main

from configs import digits, digits_dual, shapes_igebm
from ebm_jax import data, models
from ebm_jax.data import Dataset
from ebm_jax.io import weights
from ebm_jax.io.files import json_safe
from ebm_jax.runs import build, init_from, model_folder, settings
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks.card import _measured

STEPS = "--config.training.num_steps="


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two updates with its evaluation, its samples and its card."""
    path = tmp_path_factory.mktemp("run")
    for mode in ("train", "sample", "card"):
        flags = ("--config.card.license=MIT",) if mode == "card" else ()
        result = run_main(*TINY, f"--workdir={path}", f"{STEPS}2", f"--mode={mode}", *flags)
        assert result.code == 0, result.err
    return path


@pytest.fixture
def folder(workdir, tmp_path):
    """A copy of its card that may be broken."""
    return shutil.copytree(workdir / "card", tmp_path / "model")


def test_it_makes_the_samples_of_the_run(workdir, folder):
    model = models.load(folder)
    assert (model.name, model.trained.step) == ("model", 2)
    key = build.named_key(0, "sample")
    expected = np.load(workdir / "sample/samples.npz")
    x = model.sample(key, 16)
    np.testing.assert_allclose(x, expected["x"], atol=2e-4)
    np.testing.assert_allclose(model.sample(key, 3, first=5), x[5:8], atol=1e-6)
    off_by_one = np.abs(model.to_pixels(x).astype(int) - expected["image"])
    assert off_by_one.max() <= 1
    energy = model.energy_fn(level=1)(x)
    np.testing.assert_array_equal(
        energy, model.method.densities(model.params).energy(np.int32(1))(x)
    )
    np.testing.assert_allclose(model.from_pixels(expected["image"][:1])[0].min(), -1, atol=1e-6)
    assert model.grid(x).shape == (4 * 50 + 2, 4 * 50 + 2, 1)


def test_weights_are_plain_safetensors(folder):
    """As another program reads them."""
    stored = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert all(name.startswith("params/") for name in stored)
    described = json.loads((folder / "model.json").read_text())
    assert described["num_parameters"] == sum(array.size for array in stored.values())
    assert described["data"]["num_examples"] == 901
    assert described["config"]["data_dir"] == ""
    card = (folder / "card.md").read_text()
    assert described["weights_sha256"] in card
    assert card.startswith('---\nlicense: "MIT"\nlibrary_name: ebm_jax\n')


def test_a_run_starts_from_it(folder, tmp_path):
    """With no step: its parameters, for every mode; with two: trained further."""
    flags = (*TINY, f"--config.training.init_from={folder}")
    kept = run_main(*flags, f"--workdir={tmp_path}/kept", f"{STEPS}0")
    assert kept.code == 0, kept.err
    assert "untrained; next: --mode=sample" in kept.out
    again = run_main(*flags, f"--workdir={tmp_path}/kept", f"{STEPS}0")
    assert again.code == 0, again.err
    card = run_main(*flags, f"--workdir={tmp_path}/kept", f"{STEPS}0", "--mode=card")
    assert card.code == 0, card.err
    before, after = (
        weights.read(path / "weights.safetensors")["params"]
        for path in (folder, tmp_path / "kept/card")
    )
    jax.tree.map(np.testing.assert_array_equal, before, after)
    further = run_main(*flags, f"--workdir={tmp_path}/further", f"{STEPS}1")
    assert further.code == 0, further.err
    named = json.loads((tmp_path / "further/versions.json").read_text())["init_from"]
    assert named == {"model": "model", "step": 2}


@pytest.mark.parametrize(
    "config", [digits_dual.get_config("mixture"), shapes_igebm.get_config("size")]
)
def test_what_methods_take_of_the_data_goes_with_it(config, tmp_path):
    """Moments, a mixture, labels: the same densities and samples where there are no data."""
    config.training.batch_size = 64
    config.network.width = 4
    run = build.build(config)
    trained = TrainedRun(run, 3, build.init_state(run).params, 0.9)
    for name, content in model_folder.contents(trained).items():
        (tmp_path / name).write_bytes(content)
    model = models.load(tmp_path)
    assert model.trained.run.dataset.num_examples == 0
    for name in ("data_moments", "data_mixture", "labels"):
        if hasattr(run.method, name):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(run.method, name),
                getattr(model.method, name),
            )
    assert jax.tree.structure(model.params) == jax.tree.structure(trained.params)
    x = jax.random.uniform(jax.random.key(0), (2, *run.dataset.example_shape))
    of_both = [one.method.densities(trained.params) for one in (run, model.trained.run)]
    if hasattr(run.method, "data_moments"):
        of_run, of_model = (densities.energy(np.int32(0))(x) for densities in of_both)
    else:  # of examples given labels
        label = np.full((2, 1), 0.7, np.float32)
        of_run, of_model = (d.class_energy(np.int32(0), label)(x) for d in of_both)
    np.testing.assert_array_equal(of_model, of_run)


def test_training_goes_on_from_its_parameters(tmp_path):
    """They are those of the EMA, and take the place of the parameters too."""
    config = digits.get_config()
    config.network.width = 4
    run = build.build(config)
    state = build.init_state(run)
    averaged = jax.tree.map(lambda leaf: leaf + 1, state.params)
    for name, content in model_folder.contents(TrainedRun(run, 3, averaged, 0.9)).items():
        (tmp_path / name).write_bytes(content)
    found, said = init_from.load(str(tmp_path), state)
    assert said == {"model": tmp_path.name, "step": 3}
    for params in (found.params, found.ema_params):
        jax.tree.map(np.testing.assert_array_equal, params, averaged)
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, state.opt_state)


def test_energies_are_exact_whatever_it_was_trained_in(tmp_path):
    """Of a run in bfloat16: those of float32, with every product at highest precision."""
    config = digits.get_config()
    config.network.width = 4
    config.compute.dtype = "bfloat16"
    run = build.build(config)
    trained = TrainedRun(run, 3, build.init_state(run).params, 0.9)
    for name, content in model_folder.contents(trained).items():
        (tmp_path / name).write_bytes(content)
    x = jax.random.uniform(jax.random.key(0), (2, *run.dataset.example_shape))
    energy_fn = models.load(tmp_path).energy_fn()
    exact = run.in_float32().method.densities(trained.params).energy(np.int32(0))
    np.testing.assert_allclose(energy_fn(x), exact(x), rtol=1e-5)
    program = jax.jit(energy_fn).lower(x).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    products += [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert products
    assert all("HIGHEST" in line and "bf16" not in line for line in products)


def test_a_card_quotes_this_checkpoint_and_this_sampler_alone(tmp_path):
    """Of four results, the one that is of both."""
    config = digits.get_config()
    config.training.batch_size = 64
    trained = TrainedRun(build.build(config), 2, {}, 0.9, tmp_path)
    sampler = config.sampler.to_dict()
    changes = {
        "ours": {},
        "older": {"checkpoint_step": 1},
        "other_sampler": {"sampler": sampler | {"num_steps": 77}},
        "ensemble": {"ensemble": {"checkpoints": [1, 2]}},
    }
    for name, change in changes.items():
        (tmp_path / name).mkdir()
        measured_on = {"checkpoint_step": 2, "sampler": sampler, "ensemble": None} | change
        result = {"measured_on": measured_on, "summary": [f"of {name}"]}
        (tmp_path / name / f"{name}.json").write_text(json.dumps(result))
    assert _measured(trained) == {"ours": ["of ours"]}


def broken(what, folder):
    path = folder / "weights.safetensors"
    description = json.loads((folder / "model.json").read_text())
    if what == "weights":
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    elif what == "other weights":
        path.write_bytes(b"none")
        description["weights_sha256"] = model_folder.hashlib.sha256(b"none").hexdigest()
    elif what == "layout":
        description["layout"] = 7
    elif what == "network":
        description["config"]["network"]["width"] = 6
    elif what == "setting":
        description["config"]["network"]["width"] = -5
    elif what == "no weights":
        path.unlink()
    (folder / "model.json").write_text("{" if what == "json" else json.dumps(description))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("weights", r"weights.safetensors is not what model.json was written for"),
        ("other weights", r"is no safetensors file that can be read"),
        ("layout", r"expected the description of a model of layout 1"),
        ("network", r"of another architecture: .* is \(.*\), expected \(.*\)"),
        ("setting", r"network.width: expected a whole number >= 4, got -5"),
        ("no weights", r"No such file.*weights.safetensors"),
        ("json", r"model.json cannot be read"),
    ],
)
def test_what_is_damaged_is_said_in_one_line(what, says, folder):
    broken(what, folder)
    with pytest.raises(ConfigError, match=says) as error:
        models.load(folder)
    assert "\n" not in str(error.value)


def test_another_architecture_is_not_started_from(folder):
    config = digits.get_config()
    state = build.init_state(build.build(config))
    with pytest.raises(ConfigError, match=r"^training.init_from: the model in .*architecture"):
        init_from.load(str(folder), state)


@pytest.mark.parametrize("name", ["digits_dlr", "digits_/nowhere", pathlib.Path("digits")])
def test_a_model_that_there_is_not(name):
    with pytest.raises(ConfigError, match=r"model: expected one of .*did you mean 'digits_\w+'\?"):
        models.load(name)


def test_what_cannot_be_asked_of_a_model(folder):
    model = models.load(folder)
    with pytest.raises(ValueError, match=r"level: expected a whole number from 0 to 1, got 2"):
        model.energy_fn(level=2)
    with pytest.raises(ValueError, match=r"number: expected a whole number >= 1, got 0"):
        model.sample(jax.random.key(0), 0)


def made(images, labels):
    """A run in memory, of which a model can be written."""
    config = digits.get_config()
    config.data_dir = "/somewhere"
    dataset = Dataset("made", "others", images, labels, 7, (-2.0, 255.0))
    method = types.SimpleNamespace(labels=np.ones(3))
    return build.Run(
        config, dataset, method, settings.General(), settings.Data(), settings.Sampling()
    )


def test_what_a_model_says_of_itself(tmp_path):
    """Shapes and numbers of its data and its weights, and not where the data were."""
    params = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(5)}}
    run = made(np.zeros((9, 2, 3, 1), np.uint8), np.zeros((9, 4), np.float32))
    files = model_folder.contents(TrainedRun(run, 12, params, 0.75))
    assert set(files) == {"weights.safetensors", "model.json"}
    described = json.loads(files["model.json"])
    assert files["model.json"].endswith(b"}\n")
    stored = safetensors.numpy.load(files["weights.safetensors"])
    assert {name: array.shape for name, array in stored.items()} == {
        "params/a": (2, 3), "params/b/c": (5,), "labels/values": (3,),
    }  # fmt: skip
    sha256 = hashlib.sha256(files["weights.safetensors"]).hexdigest()
    assert described.pop("weights_sha256") == sha256
    config = described.pop("config")
    assert config == json_safe(run.config.to_dict() | {"data_dir": ""})
    assert described.pop("versions")["jax"] == jax.__version__
    of_data = described["data"]
    assert described == {
        "layout": 1, "step": 12, "ema_decay": 0.75, "num_parameters": 11,
        "data": {"name": "made", "split": "others", "num_examples": 9, "example_shape": [2, 3, 1],
                 "dtype": "uint8", "label_size": 4, "num_classes": 7, "value_range": [-2, 255]},
    }  # fmt: skip
    without = model_folder._without_examples(of_data)
    assert without[:2] == ("made", "others")
    assert (without.num_examples, without.example_shape, without.label_size) == (0, (2, 3, 1), 4)
    assert (without.images.dtype, without.labels.dtype) == (np.uint8, np.float32)
    assert (without.num_classes, without.value_range) == (7, (-2, 255))
    plain = model_folder._without_examples(of_data | {"label_size": 0, "dtype": "float32"})
    assert (plain.labels.shape, plain.labels.dtype) == ((0,), np.int32)
    assert plain.images.dtype == np.float32


def test_shapes_that_do_not_fit(tmp_path):
    """The first of them by name, be it another, missing or too many."""
    params = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(5)}}
    assert model_folder._fitting(tmp_path, params, params) is params
    for template, says in (
        ({"a": np.zeros((3, 2)), "b": {"c": np.zeros(4)}}, r"a is \(2, 3\), expected \(3, 2\)"),
        ({"a": np.zeros((2, 3))}, r"b/c is \(5,\), expected absent"),
        ({**params, "d": np.zeros(())}, r"d is absent, expected \(\)"),
    ):
        with pytest.raises(ValueError, match=rf"{tmp_path} is of another architecture: {says}$"):
            model_folder._fitting(tmp_path, params, template)


def test_names_and_folders_of_models(tmp_path):
    names = model_folder.names()
    assert names == sorted(names)
    assert "digits_dlr" not in names
    for name in names:
        assert model_folder.is_model(name)
        assert (model_folder.find(name) / "model.json").is_file()
    assert not model_folder.is_model(tmp_path)
    (tmp_path / "model.json").write_text("[1]")
    assert model_folder.is_model(str(tmp_path))
    assert model_folder.find(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match=r"expected the description of a model of layout 1: use"):
        model_folder._description(tmp_path)


def test_facts_come_back_from_a_file():
    facts = DataFacts(
        data.Moments(np.zeros(2), np.eye(2)), np.arange(6.0).reshape(2, 3),
        data.Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None]),
    )  # fmt: skip
    groups = weights.from_bytes(weights.to_bytes(facts.groups()))
    assert set(groups) == {"moments", "labels", "data_mixture"}
    jax.tree.map(np.testing.assert_array_equal, DataFacts.of_groups(groups), facts)
    assert DataFacts().groups() == {}
    assert DataFacts.of_groups({}) == DataFacts()
    method = types.SimpleNamespace(labels="l", data_mixture="m")
    assert DataFacts.of_method(method) == DataFacts(None, "l", "m")


def test_a_workdir_and_its_step(tmp_path):
    for name, path, step in (
        ("a@12", "a", 12), ("a@b@3", "a@b", 3), ("a@b", "a@b", None), ("a", "a", None),
        ("a@", "a@", None), ("a@-1", "a@-1", None), ("a@0", "a", 0),
    ):  # fmt: skip
        assert init_from._split(f"{tmp_path}/{name}") == (tmp_path / path, step)
