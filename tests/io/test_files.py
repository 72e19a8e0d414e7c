"""JSON that any reader can parse, written in one step."""

import hashlib
import json
import os
import platform
import signal
import stat
import types
import warnings
from importlib import metadata
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
    assert found["platform"] == f"{platform.system()} {platform.machine()}"
    files.write_json(tmp_path / "v.json", found)
    assert read_strictly(tmp_path / "v.json") == found


def test_a_package_that_is_not_installed_and_the_first_of_several_devices(monkeypatch):
    installed = metadata.version

    def version(name):
        if name == "flax":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    devices = [types.SimpleNamespace(device_kind=kind) for kind in ("first", "second")]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    found = files.versions()
    assert (found["flax"], found["jax"]) == (None, jax.__version__)
    assert found["device_kind"] == "first"


@pytest.mark.parametrize(
    "arrays",
    [
        (np.arange(3_000, dtype=np.float32).reshape(1_500, 2),),
        (np.arange(12).reshape(3, 4).T, np.arange(5, dtype=np.uint8)[::2]),
        (np.float64(3).reshape(()), np.zeros((0, 2)), np.arange(4_000)),
    ],
    ids=["many rows", "other orders", "no axis"],
)
def test_a_hash_is_that_of_shapes_types_and_values(arrays):
    content = b"".join(f"{a.shape} {a.dtype};".encode() + a.tobytes() for a in arrays)
    assert files.arrays_sha256(*arrays) == hashlib.sha256(content).hexdigest()


def test_numbers_of_every_kind_are_numbers(tmp_path):
    values = {
        "scalars": [np.float32(0.5), np.int64(3), np.bool_(True), jnp.float32(0.25), True, None],
        "bfloat16": jnp.bfloat16(1.5),
        "arrays": {"a": np.arange(4).reshape(2, 2), "b": jnp.asarray([1.0, 2.0])},
        "tuple": (1, 2),
        "set": {8, 1, np.float32(2.5)},
        "frozen": frozenset({"b", "a"}),
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
        "set": [1, 2.5, 8],
        "frozen": ["a", "b"],
        "path": "runs/digits",
        "5": "a number as a key",
        "config": {"lr": 1e-4, "multipliers": [1, 2]},
    }


def test_subclasses_of_numbers_become_plain_ones():
    """As they are compared with what a file gives back, and printed."""
    assert files.json_safe({np.int64(1): 2, None: 3}) == {"1": 2, "None": 3}
    with warnings.catch_warnings(action="error"):  # of types that JAX does not have
        assert files.json_safe(jnp.bfloat16(1.5)) == 1.5
    found = files.json_safe([np.float64(1.5), signal.SIGINT, np.bool_(True), np.int8(3)])
    assert found == [1.5, 2, True, 3]
    assert [type(value) for value in found] == [float, int, bool, int]


def test_files_are_indented_and_end_with_a_line(tmp_path):
    files.write_json(str(tmp_path / "x.json"), {"a": [1]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_named_arrays_come_back_from_a_file(tmp_path):
    """Lists as well; in a folder that is not there yet, and again in the same."""
    for values in ([1, 2], [3, 4]):
        files.write_arrays(tmp_path / "a" / "b" / "x.npz", {"list": values, "x": np.ones(2)})
        with np.load(tmp_path / "a" / "b" / "x.npz") as found:
            assert sorted(found) == ["list", "x"]
            np.testing.assert_array_equal(found["list"], values)
    assert os.listdir(tmp_path / "a" / "b") == ["x.npz"]


def test_all_is_on_disk_beside_the_file_before_it_takes_its_place(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def synced(descriptor):
        seen.append((os.listdir(tmp_path), os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    files.write_atomically(tmp_path / "x", b"12345")
    (((temporary,), size),) = seen
    assert temporary.startswith(".x.")
    assert size == 5
    assert (tmp_path / "x").read_bytes() == b"12345"


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
    for value in (np.zeros(1, [("field", "f4")]), np.array(["text"]), np.ones(2, complex)):
        with pytest.raises(TypeError, match="ndarray has no JSON form"):
            files.write_json(path, {"a": value})
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
    """That of the process, which stays as it is."""
    usual = os.umask(0o026)
    try:
        for name in ("a.json", "b.json"):
            files.write_json(tmp_path / name, {})
        (tmp_path / "plain").write_text("")
    finally:
        assert os.umask(usual) == 0o026
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
