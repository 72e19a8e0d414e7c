"""JSON that any reader can parse, written in one step."""

import json
import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from ebm_jax.io import files


def read_strictly(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def test_versions_name_everything_that_a_result_depends_on(tmp_path):
    found = files.versions()
    assert found["jax"] == jax.__version__
    assert (found["backend"], found["device_count"]) == ("cpu", 8)
    assert set(found) >= {"python", "jaxlib", "flax", "ebm_jax", "platform", "device_kind"}
    files.write_json(tmp_path / "v.json", found)
    assert read_strictly(tmp_path / "v.json") == found


def test_numbers_of_every_kind_are_numbers(tmp_path):
    values = {
        "scalars": [np.float32(0.5), np.int64(3), np.bool_(True), jnp.float32(0.25), True, None],
        "bfloat16": jnp.bfloat16(1.5),
        "arrays": {"a": np.arange(4).reshape(2, 2), "b": jnp.asarray([1.0, 2.0])},
        "tuple": (1, 2),
        "set": {3, 1},
        "path": Path("runs") / "digits",
        5: "a number as a key",
        "config": ml_collections.ConfigDict({"lr": 1e-4, "multipliers": (1, 2)}),
    }
    files.write_json(tmp_path / "x.json", values)
    assert read_strictly(tmp_path / "x.json") == {
        "scalars": [0.5, 3, True, 0.25, True, None],
        "bfloat16": 1.5,
        "arrays": {"a": [[0, 1], [2, 3]], "b": [1.0, 2.0]},
        "tuple": [1, 2],
        "set": [1, 3],
        "path": "runs/digits",
        "5": "a number as a key",
        "config": {"lr": 1e-4, "multipliers": [1, 2]},
    }


def test_non_finite_numbers_come_back_through_float(tmp_path):
    values = {"a": [float("nan"), np.float32(np.inf)], "b": jnp.asarray([-jnp.inf, 1.0])}
    files.write_json(tmp_path / "x.json", values)
    found = read_strictly(tmp_path / "x.json")
    assert found == {"a": ["NaN", "Infinity"], "b": ["-Infinity", 1.0]}
    np.testing.assert_array_equal([float(v) for v in found["a"]], [np.nan, np.inf])


def test_what_has_no_json_form_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="object has no JSON form"):
        files.write_json(path, {"a": object()})
    with pytest.raises(TypeError, match="complex has no JSON form"):
        files.write_json(path, {"a": 1j})
    assert read_strictly(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert read_strictly(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_files_have_the_usual_mode(tmp_path):
    files.write_json(tmp_path / "x.json", {})
    (tmp_path / "y").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.json", "y")]
    assert modes[0] == modes[1]
