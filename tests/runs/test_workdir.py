"""Names of workdirs: what they stand for, and what no run can use, told before anything is made."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from configs import digits
from ebm_jax.runs import workdir
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.checkpoints import Checkpoints


def test_names_that_stand_for_others(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.resolve("~/run") == tmp_path / "run"
    assert workdir.resolve("a/~b") == pathlib.Path("a/~b")
    assert workdir.resolve(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert workdir.resolve(f"file://localhost{tmp_path}") == tmp_path
    assert workdir.resolve(tmp_path / "x") == tmp_path / "x"


REFUSED = {
    "": "workdir: expected a directory, got ''",
    "gs://bucket/run": "workdir: expected a directory of this machine .* got gs://bucket/run",
    "s3://bucket/run": "expected a directory of this machine",
    "http://host/run": "expected a directory of this machine",
    "http:///run": "expected a directory of this machine",
    "file://host/run": "expected a directory of this machine",
    "~nobody-of-this-name/run": "workdir: expected a directory, got '~nobody-of-this-name/run'",
    "\udcff": r"workdir: expected a directory, got '\\udcff': ",
    "a" * 256: "workdir: expected names of at most 255 bytes, got 256",
    "é" * 128: "workdir: expected names of at most 255 bytes, got 256",
    "/".join(["a" * 250] * 17): "workdir: expected a path of at most 3896 bytes, got ",
}


@pytest.mark.parametrize(("name", "says"), REFUSED.items(), ids=range(len(REFUSED)))
def test_names_that_no_directory_can_have(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says) as refused:
        workdir.check_workdir(name, digits.get_config())
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    workdir.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", pathlib.Path("/proc/nothing")):
        with pytest.raises(ConfigError, match="cannot be written"):
            workdir.make_folder(path)


@pytest.mark.parametrize("name", ["lr[1e-3]", "back\\slash", "a*b", "a?b", "[!a]", "a b#%20{}"])
def test_checkpoints_in_folders_of_any_name(name, tmp_path, monkeypatch):
    """Also where the current directory has that name, and with a sibling that a pattern matches."""
    (tmp_path / name).mkdir()
    (tmp_path / "axb" / "checkpoints" / "7").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name)
    state = {"x": np.arange(3.0)}
    for directory in (tmp_path / name / "run", pathlib.Path("relative")):
        with Checkpoints(directory / "checkpoints", keep_latest=1) as checkpoints:
            assert checkpoints.restore_latest(state) is None
            checkpoints.save(3, state)
            checkpoints.save(5, state)
        with Checkpoints(directory / "checkpoints", keep_latest=1) as checkpoints:
            step, found = checkpoints.restore_latest(state)
        assert (step, os.listdir(directory / "checkpoints")) == (5, ["5"])
        np.testing.assert_array_equal(found["x"], state["x"])


def test_what_is_written_of_a_run(tmp_path):
    """Its config in this layout, and what it was made from, which stays when it goes on."""
    config, path = digits.get_config(), tmp_path / "a" / "b"
    assert workdir.saved_config(path) is None
    workdir.describe_run(path, config, init_from={"step": 3})
    workdir.describe_run(path, config)
    versions = json.loads((path / "versions.json").read_text())
    assert versions["init_from"] == {"step": 3}
    assert versions["jax"] == jax.__version__
    written = json.loads((path / "config.json").read_text())
    assert written["layout"] == 2
    del written["layout"]
    assert workdir.saved_config(path) == written
    (path / "checkpoints" / "1").mkdir(parents=True)
    assert workdir.check_workdir(path, config) == path
    config.seed += 1
    with pytest.raises(ConfigError, match=r"were: seed: 0 -> 1$"):
        workdir.check_workdir(path, config)
    workdir.check_workdir(path, config, "evaluate")
    (path / "config.json").write_text(json.dumps(written | {"layout": 3}))
    with pytest.raises(ConfigError, match=r"holds a run of another version of ebm_jax"):
        workdir.check_workdir(path, config)
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"b/config\.json cannot be read: "):
        workdir.saved_config(path)
    (path / "config.json").unlink()
    workdir.check_workdir(path, config)


def test_learning_rates_that_depend_on_the_number_of_steps():
    """Of any of several optimizers; other schedules bind no number."""
    both = {"optimizer": {"a": {"schedule": "constant"}, "b": {"schedule": "constant"}},
            "sampler": {"schedule": "cosine"}, "training": {"num_steps": 5}}  # fmt: skip
    config = workdir.config_from_json(both | {"training": {"num_steps": 6}})
    assert workdir.differences(both, config, "resume") == []
    config.optimizer.b.schedule = "cosine"
    both["optimizer"]["b"]["schedule"] = "cosine"
    assert workdir.differences(both, config, "resume") == ["training.num_steps: 5 -> 6"]


def test_checkpoints_are_of_the_workdir_and_hold_the_config(tmp_path, monkeypatch):
    opened = {}
    monkeypatch.setattr(
        workdir, "Checkpoints", lambda path, **options: opened.update(path=path, **options)
    )
    config = digits.get_config()
    workdir.open_checkpoints(config, tmp_path, keep_latest=3, pin_every=7)
    assert opened == {
        "path": tmp_path / "checkpoints", "keep_latest": 3, "pin_every": 7,
        "config": config.to_dict(),
    }  # fmt: skip
