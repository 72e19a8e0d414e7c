"""Weights read without the programs that wrote them; a pickle that is a program is refused."""

import collections
import io
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from ebm_jax.evaluation.fidelity.inception_weights import read_weights

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
COUNT = np.array([7], np.int64)


class FakeTensor:
    """What torch.save writes of a tensor: a view of a storage, by a call that rebuilds it."""

    def __init__(self, key, kind, array, offset=0, strides=None):
        self.key, self.kind, self.array, self.offset = key, kind, array, offset
        self.strides = strides or tuple(s // array.itemsize for s in array.strides)


@pytest.fixture
def torch_pickle(monkeypatch):
    """(object) -> a pickle as torch makes it, by stand-ins for torch's own functions."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "LongStorage", "BFloat16Storage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch", "__qualname__": kind}))
    exec("def _rebuild_tensor_v2(): pass", utils.__dict__)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if isinstance(item, tuple) and item[:1] == ("the storage",):
                tensor = item[1]
                kind = getattr(torch, tensor.kind)
                return ("storage", kind, tensor.key, "cpu", tensor.array.size)
            return None

        def reducer_override(self, item):
            if isinstance(item, FakeTensor):
                shape = item.array.shape
                parts = (("the storage", item), item.offset, shape, item.strides, False)
                return utils._rebuild_tensor_v2, (*parts, collections.OrderedDict())
            return NotImplemented

    def dump(item) -> bytes:
        content = io.BytesIO()
        Pickler(content, protocol=2).dump(item)
        return content.getvalue()

    return dump


def state_dict():
    turned = np.ascontiguousarray(KERNEL[0, 0])  # stored turned, read back by its strides
    return collections.OrderedDict(
        {
            "conv.weight": FakeTensor("0", "FloatStorage", KERNEL),
            "turned": FakeTensor("1", "FloatStorage", turned, strides=(1, 2)),
            "count": FakeTensor("2", "LongStorage", COUNT),
        }
    )


def assert_read(path):
    found = read_weights(str(path)).arrays
    np.testing.assert_array_equal(found["conv.weight"], KERNEL)
    np.testing.assert_array_equal(found["turned"], KERNEL[0, 0].T)
    np.testing.assert_array_equal(found["count"], COUNT)


def test_torch_zip(tmp_path, torch_pickle):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", torch_pickle(state_dict()))
        for tensor in state_dict().values():
            archive.writestr(f"weights/data/{tensor.key}", tensor.array.tobytes())
    assert_read(path)


def test_torch_stream(tmp_path, torch_pickle):
    """Magic number, version, machine, object, keys; then number and bytes of every storage."""
    tensors = {tensor.key: tensor.array for tensor in state_dict().values()}
    content = b"".join(
        pickle.dumps(item, protocol=2)
        for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    content += torch_pickle(state_dict()) + pickle.dumps(sorted(tensors), protocol=2)
    for key in sorted(tensors):
        content += tensors[key].size.to_bytes(8, "little") + tensors[key].tobytes()
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert_read(path)


def test_npz_and_safetensors(tmp_path):
    np.savez(tmp_path / "weights.npz", kernel=KERNEL)
    np.testing.assert_array_equal(
        read_weights(str(tmp_path / "weights.npz")).arrays["kernel"], KERNEL
    )
    upper = (KERNEL.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, cut off
    header = {
        "__metadata__": {"made": "by hand"},
        "kernel": {"dtype": "F32", "shape": [4, 3, 2, 2], "data_offsets": [0, 192]},
        "short": {"dtype": "BF16", "shape": [48], "data_offsets": [192, 288]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + KERNEL.tobytes() + upper.tobytes())
    found = read_weights(str(path))
    np.testing.assert_array_equal(found.arrays["kernel"], KERNEL)
    np.testing.assert_allclose(found.arrays["short"], KERNEL.ravel(), rtol=2**-7)
    assert len(found.sha256) == 64


class Program:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("it_ran",)


def test_what_is_refused(tmp_path, monkeypatch, torch_pickle):
    monkeypatch.chdir(tmp_path)
    for name, content, said in (
        ("program.pth", pickle.dumps(Program()), "wants .*mkdir, which no state dict needs"),
        ("other.pth", pickle.dumps([1, 2]), "does not begin as PyTorch's files do"),
        ("text.pth", b"hello", "holds no arrays that can be read"),
        ("cut.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "holds no arrays"),
        ("empty.npz", b"", "holds no arrays"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_weights(str(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "zipped.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"x": Program()}))
    with pytest.raises(ValueError, match="which no state dict needs"):
        read_weights(str(tmp_path / "zipped.pth"))
    with zipfile.ZipFile(tmp_path / "short.pth", "w") as archive:  # a tensor beyond its storage
        archive.writestr("a/data.pkl", torch_pickle(state_dict()))
        for key in "012":
            archive.writestr(f"a/data/{key}", b"\0" * 8)
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        read_weights(str(tmp_path / "short.pth"))
    with pytest.raises(ValueError, match=r"absent\.pth cannot be read: No such file"):
        read_weights(str(tmp_path / "absent.pth"))
    assert not (tmp_path / "it_ran").exists()
