"""The programs of examples/ run, and what they print is true."""

import dataclasses
import pathlib
import runpy

import numpy as np
import pytest

from configs import default, toy2d
from ebm_jax import tasks
from ebm_jax.methods.registry import METHODS

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def load(name):
    """The names that an example defines; its last lines, of a program, are not run."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@pytest.fixture(autouse=True)
def methods_as_before(monkeypatch):
    """An example adds its method to the table for good."""
    for name in set(METHODS) | {"noise_contrastive"}:
        monkeypatch.setitem(METHODS, name, METHODS.get(name))
    if METHODS["noise_contrastive"] is None:
        monkeypatch.delitem(METHODS, "noise_contrastive")


def test_every_example_is_tested():
    text = pathlib.Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'load("{path.stem}")' in text
        assert f"python examples/{path.name}" in path.read_text()


def test_own_energy():
    """Least squares of 20,000 points would give the covariance to 1 %; this does to a few."""
    of_data, of_energy = load("own_energy")["main"](num_steps=400)
    np.testing.assert_allclose(of_energy, of_data, rtol=0.1)


def test_composition():
    """Means of 4,000 chains with standard deviations below 1.3."""
    for found, truth in load("composition")["main"]().values():
        np.testing.assert_allclose(found, truth, atol=4 * 1.3 / np.sqrt(4_000))


def test_new_sampler():
    """Standard deviations of 2,000 chains: relative error 1 / sqrt(2 n)."""
    found, truth, acceptance = load("new_sampler")["main"](num_steps=100)
    np.testing.assert_allclose(found, truth, rtol=4 / np.sqrt(2 * 2_000))
    assert 0.5 < acceptance < 0.9


def test_new_method():
    """Nearer to the true density than its noise, which is at 2.4 nats: 0.5 after 300 steps."""
    divergence, samples = load("new_method")["main"](num_steps=300)
    assert 0 < divergence < 0.7
    assert np.isfinite(samples).all()


def test_new_method_is_one_short_file():
    lines = (EXAMPLES / "new_method.py").read_text().splitlines()
    first = lines.index("class NoiseContrastive:") - 1
    last = lines.index('METHODS["noise_contrastive"] = NoiseContrastive  # see CONTRIBUTING.md')
    assert last - first <= 60


def test_new_method_runs_as_a_mode(tmp_path, capsys):
    """What is in METHODS is trained and evaluated by the modes of main.py."""
    example = load("new_method")
    METHODS["noise_contrastive"] = example["NoiseContrastive"]
    config = toy2d.get_config("two_moons")
    config.network = default.network("mlp", width=8, depth=1)
    config.method = default.method("noise_contrastive", noise_std=3.0)
    config.sampler = default.sampler("noise_contrastive", num_steps=3)
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    config.training.num_steps, config.training.batch_size = 2, 16
    config.sampling.num_samples = config.sampling.batch_size = 16
    config.evaluate.num_samples = 16
    assert tasks.run("train", config, tmp_path) == 0
    assert tasks.run("evaluate", config, tmp_path) == 0
    assert "16 samples" in capsys.readouterr().out
    assert dataclasses.is_dataclass(example["NoiseContrastive"])
