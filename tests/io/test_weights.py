"""Arrays by name in one file, as they were and as another program reads them."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ebm_jax.io import weights

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_trees_come_back_as_they_were(tmp_path):
    """One number without an axis, an array whose columns lie together, any mapping."""
    given = {
        "params": {"dense": {"kernel": NUMBERS.T, "bias": jnp.ones(3)}, "scale": np.float32(2.5)},
        "labels": {"values": np.array([7, 2**40])},
    }
    content = weights.to_bytes(types.MappingProxyType(given))
    plain = safetensors.numpy.load(content)
    assert sorted(plain) == [
        "labels/values", "params/dense/bias", "params/dense/kernel", "params/scale",
    ]  # fmt: skip
    np.testing.assert_array_equal(plain["params/dense/kernel"], [[0, 3], [1, 4], [2, 5]])
    (tmp_path / "w.safetensors").write_bytes(content)
    for found in (weights.from_bytes(content), weights.read(str(tmp_path / "w.safetensors"))):
        assert found["params"]["scale"].shape == ()
        assert found["params"]["scale"] == 2.5
        np.testing.assert_array_equal(found["params"]["dense"]["kernel"], NUMBERS.T)
        np.testing.assert_array_equal(found["params"]["dense"]["bias"], np.ones(3))
        assert found["labels"]["values"].tolist() == [7, 2**40]
        assert [sorted(found), sorted(found["params"])] == [
            ["labels", "params"],
            ["dense", "scale"],
        ]


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "w.safetensors"
    for content in (b"", b"text that is no header", weights.to_bytes({"a": NUMBERS})[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path} is no safetensors file that .* read: "):
            weights.read(path)
