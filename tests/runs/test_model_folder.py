"""Models as folders: what --mode=card writes is what loads, samples and starts other runs."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from main_processes import TINY, run_main

from configs import digits, digits_dual, shapes_igebm
from ebm_jax import models
from ebm_jax.io import weights
from ebm_jax.runs import build, init_from, model_folder
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
