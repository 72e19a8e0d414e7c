"""`training.init_from`: a run that starts from another one's parameters, and from nothing else."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from toy_methods import adversarial, saved, toys, train

from ebm_jax.runs import build, init_from
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.checkpoints import Checkpoints

__all__ = ["toys"]  # the fixture
pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(scope="module")
def source(tmp_path_factory, toys):
    """A run of six steps with checkpoints at 3 and 6."""
    workdir = tmp_path_factory.mktemp("init_from") / "source"
    assert train(adversarial(), workdir) == 0
    return workdir


def fresh():
    return build.init_state(build.build(adversarial()))


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(("suffix", "step"), [("@3", 3), ("@6", 6), ("", 6)])
def test_parameters_and_average_are_taken_and_nothing_else(source, suffix, step):
    before = fresh()
    state, described = init_from.load(f"{source}{suffix}", before)
    assert described == {"workdir": str(source), "step": step}
    with Checkpoints(source / "checkpoints", keep_latest=1) as checkpoints:
        there = checkpoints.restore(step, before)
    assert_equal(state.params, there.params)
    assert_equal(state.ema_params, there.ema_params)
    for name in ("step", "opt_state", "method_state", "attempt", "finite_so_far"):
        assert_equal(getattr(state, name), getattr(before, name))
    kernels = [part["energy"]["hidden_0"]["kernel"] for part in (there.params, there.ema_params)]
    assert not np.array_equal(*kernels)


def test_a_run_names_what_it_started_from_and_goes_on_without_it(source, tmp_path):
    """The first step of Adam moves each parameter by the learning rate from where it was."""
    source = shutil.copytree(source, tmp_path / "source")
    config, workdir = adversarial(), tmp_path / "run"
    config.training.init_from = f"{source}@3"
    config.training.num_steps = 1
    assert train(config, workdir) == 0
    named = {"workdir": str(source), "step": 3}
    assert json.loads((workdir / "versions.json").read_text())["init_from"] == named
    with Checkpoints(source / "checkpoints", keep_latest=1) as checkpoints:
        before = checkpoints.restore(3, fresh())
    with Checkpoints(workdir / "checkpoints", keep_latest=1) as checkpoints:
        after = checkpoints.restore(1, fresh())
    assert after.step == 1
    moved = jax.tree.map(
        lambda a, b: np.max(np.abs(a - b)), before.params["energy"], after.params["energy"]
    )
    assert max(jax.tree.leaves(moved)) == pytest.approx(1e-2, rel=1e-3)

    shutil.rmtree(source)  # a resumed run reads its own checkpoints
    config.training.num_steps = 2
    assert train(config, workdir) == 0
    assert json.loads((workdir / "versions.json").read_text())["init_from"] == named
    assert saved(workdir, 2)


def test_it_binds_a_workdir(source, tmp_path):
    config, workdir = adversarial(), tmp_path / "run"
    config.training.init_from = f"{source}@3"
    config.training.num_steps = 1
    assert train(config, workdir) == 0
    for other in ("", f"{source}@6"):
        config.training.init_from = other
        with pytest.raises(ConfigError, match=r"holds a run of another config.*training.init_from"):
            train(config, workdir)


def other_networks(config):
    config.network.generator.width = 5


@pytest.mark.parametrize(
    ("value", "change", "says"),
    [
        (
            "{tmp_path}/nowhere",
            None,
            r"training.init_from: expected <workdir> or .*no .*nowhere/",
        ),
        ("{source}@4", None, r"training.init_from: no checkpoint of step 4 in .*there are 3, 6$"),
        ("{source}@x", None, r"training.init_from: expected <workdir>.*source@x"),
        ("{source}", other_networks, r"training.init_from: .*another architecture: params/gener.*"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line(source, tmp_path, value, change, says):
    config, workdir = adversarial(), tmp_path / "run"
    config.training.init_from = value.format(source=source, tmp_path=tmp_path)
    if change:
        change(config)
    with pytest.raises(ConfigError, match=says) as error:
        train(config, workdir)
    assert "\n" not in str(error.value)
    assert not (workdir / "config.json").exists()


def test_a_step_stands_behind_the_last_at():
    """Where it is a number; a folder may be called so too."""
    for name, path, step in (
        ("a@7", "a", 7), ("a@b@12", "a@b", 12), ("a@x", "a@x", None), ("a@", "a@", None),
        ("7", "7", None), ("a@1.5", "a@1.5", None),
    ):  # fmt: skip
        assert init_from._split(name) == (pathlib.Path(path), step)
