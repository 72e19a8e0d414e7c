"""--mode=export: the functions in a process without this package, on platforms, on any batch."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import default, digits, digits_dual, digits_igebm, digits_mdsm, shapes_igebm, toy2d
from ebm_jax import tasks
from ebm_jax.runs import build, modes
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import export


def exported(config, tmp_path, monkeypatch, **settings):
    """(result, trained run) of a model that was never trained, written to tmp_path/export."""
    config.training.batch_size = 128
    config.export.update(settings)
    run = build.build(config)
    trained = TrainedRun(run, 7, build.init_state(run).params, 0.999)
    monkeypatch.setattr(modes, "load_trained", lambda *_: trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))
    assert modes.run_task(export, "export", config, tmp_path, other_modes=()) == 0
    return json.loads((tmp_path / "export/export.json").read_text()), trained


def tiny(config, **method):
    config.network.update(width=4)
    if "multipliers" in config.network:
        config.network.multipliers = (1,)
    if "num_blocks" in config.network:
        config.network.num_blocks = (1,) if isinstance(config.network.num_blocks, tuple) else 1
    config.method.update(method)
    return config


def alone(folder, tmp_path, **inputs):
    """What the functions give in a process without this package."""
    np.savez(tmp_path / "in.npz", **inputs)
    script = pathlib.Path(__file__).parent / "exported_alone.py"
    ran = subprocess.run(
        [sys.executable, script, folder, tmp_path / "in.npz", tmp_path / "out.npz"],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split(), np.load(tmp_path / "out.npz")


def test_energies_gradients_and_samples_without_this_package(tmp_path, monkeypatch):
    config = tiny(digits.get_config(), num_steps=2)
    config.sampling.update(seed=3, num_samples=16, batch_size=16)
    found, trained = exported(config, tmp_path, monkeypatch)
    assert all(f["largest_difference"] < 1e-6 for f in found["functions"].values())
    assert found["num_levels"] == 2
    x = np.random.default_rng(1).uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
    index = np.arange(4, 11, dtype=np.int32)
    names, alone_ = alone(tmp_path / "export", tmp_path, x=x, index=index)
    assert names == ["energy", "energy_and_grad", "sample"]

    densities = trained.run.method.densities(trained.params)
    energy = densities.energy(0)(x)
    np.testing.assert_allclose(alone_["energy"], energy, rtol=1e-5)
    np.testing.assert_allclose(alone_["one"], energy[:1], rtol=1e-5)
    np.testing.assert_allclose(alone_["noisier"], densities.energy(1)(x), rtol=1e-5)
    grad = jax.grad(lambda x: densities.energy(0)(x).sum())(x)
    np.testing.assert_allclose(alone_["grad"], grad, rtol=1e-4, atol=1e-4 * np.abs(grad).max())
    samples = trained.run.method.sample(trained.params, build.named_key(3, "sample"), index)
    np.testing.assert_allclose(alone_["sample"], samples, atol=1e-4)
    assert tasks.run("sample", config, str(tmp_path)) == 0  # the mode's are the same
    of_the_mode = np.load(tmp_path / "sample/samples.npz")["x"]
    np.testing.assert_allclose(alone_["sample"], of_the_mode[4:11], atol=1e-4)


@pytest.mark.parametrize(
    ("module", "variant", "names"),
    [
        (digits, "t1k", {"energy"}),
        (digits_mdsm, "", {"energy"}),
        (digits_igebm, "conditional", {"energy", "class_energy"}),
        (shapes_igebm, "position", {"class_energy"}),
        (digits_dual, "", {"energy"}),
        (toy2d, "", {"energy"}),
        (toy2d, "rings_energy_discrepancy", {"energy"}),
    ],
)
def test_models_of_every_kind(module, variant, names, tmp_path, monkeypatch):
    config = module.get_config(variant) if variant else module.get_config()
    short = {"digits_igebm": {"num_steps": 2}, "shapes_igebm": {"num_steps": 2}}
    tiny(config, **short.get(module.__name__.split(".")[-1], {}))
    if "num_steps" in config.sampler:
        config.sampler.num_steps = 2 * (variant != "t1k")
    found, _ = exported(config, tmp_path, monkeypatch, platforms=("cpu",))
    assert set(found["functions"]) == names | {f"{name}_and_grad" for name in names} | {"sample"}
    for name, function in found["functions"].items():
        assert function["largest_difference"] < 1e-5, name


def test_convolutions_are_those_of_each_platform(tmp_path, monkeypatch):
    """CPU's gradient is a convolution of a flipped kernel, an accelerator's is XLA's own."""
    exported(tiny(digits.get_config(), num_steps=2), tmp_path, monkeypatch)
    stored = (tmp_path / "export/energy_and_grad.stablehlo").read_bytes()
    text = jax.export.deserialize(bytearray(stored)).mlir_module()
    assert "stablehlo.case" in text
    assert "stablehlo.reverse" in text
    exported(
        tiny(digits.get_config(), num_steps=2), tmp_path, monkeypatch, platforms=("cuda", "tpu")
    )
    stored = jax.export.deserialize(
        bytearray((tmp_path / "export/energy_and_grad.stablehlo").read_bytes())
    )
    assert stored.platforms == ("cuda", "tpu")
    found = json.loads((tmp_path / "export/export.json").read_text())
    assert found["functions"]["energy"]["largest_difference"] is None  # nothing to run it on


def test_products_are_exported_at_highest_precision(tmp_path, monkeypatch):
    exported(tiny(digits.get_config(), num_steps=2), tmp_path, monkeypatch, platforms=("tpu",))
    for name, number in (("energy", True), ("sample", False)):
        stored = (tmp_path / f"export/{name}.stablehlo").read_bytes()
        text = jax.export.deserialize(bytearray(stored)).mlir_module()
        assert ("precision HIGHEST" in text or "precision<HIGHEST>" in text) == number, name


@pytest.mark.parametrize("ask", [lambda x: len(x), lambda x: int(x.shape[0] > 7)])
def test_what_must_know_its_batch_is_refused(ask):
    function = export.Function(lambda params, x: x * ask(x), ("x",), "")
    with pytest.raises(ValueError, match=r"^energy cannot be exported for batches") as e:
        export._lower("energy", function, {}, (np.zeros((2, 3), np.float32),), ("cpu",))
    assert "\n" not in str(e.value)


def test_no_platform_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"export.platforms: expected some of cpu, cuda"):
        exported(digits.get_config(), tmp_path, monkeypatch, platforms=())
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        exported(digits.get_config(), tmp_path, monkeypatch, platforms=("cudo",))
    assert default.get_config().export.platforms == ("cpu", "cuda", "tpu")
