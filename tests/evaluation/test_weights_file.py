"""Weights read without the programs that wrote them; a pickle that is a program is refused."""

import collections
import hashlib
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

    def __init__(self, key, kind, array, offset=0, strides=None, shape=None):
        self.key, self.kind, self.array, self.offset = key, kind, array, offset
        self.strides = strides or tuple(s // array.itemsize for s in array.strides)
        self.shape = array.shape if shape is None else shape


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
                parts = (("the storage", item), item.offset, item.shape, item.strides, False)
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
            "short": FakeTensor("3", "BFloat16Storage", np.array([0x3FC0, 0xC000], np.uint16)),
            "version": 3,
        }
    )


def tensors_of_state_dict():
    return [item for item in state_dict().values() if isinstance(item, FakeTensor)]


def assert_read(path):
    found = read_weights(str(path)).arrays
    np.testing.assert_array_equal(found["conv.weight"], KERNEL)
    np.testing.assert_array_equal(found["turned"], KERNEL[0, 0].T)
    np.testing.assert_array_equal(found["count"], COUNT)
    np.testing.assert_array_equal(found["short"], np.array([1.5, -2], np.float32))
    assert set(found) == {"conv.weight", "turned", "count", "short"}
    assert all(array.flags.owndata and array.flags.writeable for array in found.values())


def test_torch_zip(tmp_path, torch_pickle):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", torch_pickle(state_dict()))
        for tensor in tensors_of_state_dict():
            archive.writestr(f"weights/data/{tensor.key}", tensor.array.tobytes())
    assert_read(path)


def test_torch_stream(tmp_path, torch_pickle):
    """Magic number, version, machine, object, keys; then number and bytes of every storage."""
    tensors = {tensor.key: tensor.array for tensor in tensors_of_state_dict()}
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
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="it is cut off"):
        read_weights(str(path))


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
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.path == str(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("I64", "<i8"), ("I32", "<i4"),
        ("I16", "<i2"), ("I8", "<i1"), ("U8", "<u1"), ("BOOL", "|b1"),
    ],
)  # fmt: skip
def test_types_of_safetensors(tmp_path, name, kind):
    """The second of two arrays, up to the file's last byte; one byte more is beyond it."""
    values = np.array([[0, 1], [1, 0], [1, 1]], kind)
    size, path = values.nbytes, tmp_path / "x.safetensors"

    def write(last):
        header = {"x": {"dtype": name, "shape": [3, 2], "data_offsets": [3, last]}}
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + b"abc" + values.tobytes()
        path.write_bytes(content)
        return str(path)

    found = read_weights(write(3 + size)).arrays["x"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    for last in (4 + size, 2):
        with pytest.raises(ValueError, match=r"\(x lies beyond its end\)"):
            read_weights(write(last))


def test_a_header_alone_holds_no_array(tmp_path):
    path = tmp_path / "none.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert read_weights(str(path)).arrays == {}
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"\(it is cut off\)"):
        read_weights(str(path))


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
        for key in "0123":
            archive.writestr(f"a/data/{key}", b"\0" * 8)
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        read_weights(str(tmp_path / "short.pth"))
    with pytest.raises(ValueError, match=r"absent\.pth cannot be read: No such file"):
        read_weights(str(tmp_path / "absent.pth"))
    assert not (tmp_path / "it_ran").exists()


def one_tensor(path, torch_pickle, **fields):
    """A file with a tensor of 12 numbers whose offset, shape or strides are what they are not."""
    tensor = FakeTensor("0", "FloatStorage", np.arange(12, dtype=np.float32))
    vars(tensor).update(fields)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", torch_pickle({"x": tensor}))
        archive.writestr("a/data/0", tensor.array.tobytes())
    return str(path)


@pytest.mark.parametrize(
    "fields",
    [
        # Reads 3 numbers in front of the storage: offset and last place are inside it.
        {"shape": (2, 4), "strides": (5, -2), "offset": 3},
        {"shape": (4,), "strides": (-1,), "offset": 3},  # all inside, but PyTorch has none such
        {"shape": (4,), "strides": (-4,), "offset": 0},
        {"shape": (2, 2), "strides": (-(2**40), 2**40), "offset": 5},
        {"shape": (4,), "strides": (1,), "offset": -1},
        {"shape": (4,), "strides": (1,), "offset": 9},
        {"shape": (4,), "strides": (4,), "offset": 0},
        {"shape": (13,), "strides": (1,), "offset": 0},
        {"shape": (2**62,), "strides": (0,), "offset": 0},  # fits no memory
        {"shape": (13,), "strides": (0,), "offset": 0},
        {"shape": (-3,), "strides": (1,), "offset": 0},
        {"shape": (-1, -12), "strides": (1, 1), "offset": 0},
        {"shape": (2,), "strides": (2**80,), "offset": 0},
        {"shape": (2,), "strides": (1.0,), "offset": 0},
        {"shape": (2.0,), "strides": (1,), "offset": 0},
        {"shape": (True,), "strides": (1,), "offset": 0},
        {"shape": (3, 4), "strides": (1,), "offset": 0},
        {"shape": (), "strides": (), "offset": 12},
    ],
)  # fmt: skip
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path, torch_pickle, fields):
    path = one_tensor(tmp_path / "crafted.pth", torch_pickle, **fields)
    with pytest.raises(ValueError, match=r"^[^\n]*a tensor[^\n]*$"):
        read_weights(path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"shape": (), "strides": (), "offset": 11}, 11.0),
        ({"shape": (3,), "strides": (4,), "offset": 3}, [3, 7, 11]),
        ({"shape": (2, 3), "strides": (1, 4), "offset": 2}, [[2, 6, 10], [3, 7, 11]]),
        ({"shape": (1, 2), "strides": (2**80, 1), "offset": 10}, [[10, 11]]),
        ({"shape": (3, 2), "strides": (1, 1), "offset": 0}, [[0, 1], [1, 2], [2, 3]]),
        ({"shape": (0, 5), "strides": (5, 1), "offset": 40}, np.zeros((0, 5))),
    ],
)
def test_views_up_to_the_ends_of_their_storage_are_read(tmp_path, torch_pickle, fields, expected):
    path = one_tensor(tmp_path / "views.pth", torch_pickle, **fields)
    np.testing.assert_array_equal(read_weights(path).arrays["x"], expected)


def test_damaged_weights_get_one_line(tmp_path, torch_pickle):
    path = one_tensor(tmp_path / "whole.pth", torch_pickle)
    with open(path, "rb") as file:
        content = file.read()
    header = b'{"x": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}'
    damaged = {f"cut_{size}.pth": content[:size] for size in range(0, len(content) - 22, 37)}
    damaged |= {
        "before.safetensors": len(header).to_bytes(8, "little") + header,
        "not_text.safetensors": (4).to_bytes(8, "little") + b"\xff\xfe\x00\x01",
        "list.safetensors": (2).to_bytes(8, "little") + b"[]",
        "deep.safetensors": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    }
    for name, part in damaged.items():
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=r"^[^\n]* holds no arrays that can be read [^\n]*$"):
            read_weights(str(tmp_path / name))


# A TorchScript archive's pickle, by its opcodes: classes of the archive's own code, made empty
# (NEWOBJ) and given a dict of their fields (BUILD).


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def whole(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def script_tensor(key, shape, strides, offset=0, kind="FloatStorage"):
    """torch._utils._rebuild_tensor_v2((storage), offset, shape, strides, False, OrderedDict())."""
    saved = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    sizes = b"".join(b"(" + b"".join(map(whole, numbers)) + b"t" for numbers in (shape, strides))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + saved + whole(12) + b"tQ" + whole(offset) + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def script_module(kind, fields):
    """An object of class `kind` of the archive's code, of pickled fields."""
    items = b"".join(text(name) + value for name, value in fields.items())
    return f"c__torch__.{kind}\n".encode() + b")\x81}(" + items + b"ub"


def torchscript(path, root, storages, *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("out/data.pkl", b"\x80\x02" + root + b".")
        archive.writestr("out/code/__torch__/net.py", "class Net(Module):\n  pass\n")
        archive.writestr("out/code/__torch__/net.py.debug_pkl", b"not read")
        archive.writestr("out/constants.pkl", b"\x80\x02).")
        archive.writestr("out/version", "3\n")
        for key, array in storages.items():
            archive.writestr(f"out/data/{key}", array.tobytes())
    return str(path)


TWELVE = np.arange(12, dtype=np.float32)


def test_torchscript(tmp_path):
    """Arrays of modules in modules, by dotted names; numbers, lists and flags are left alone."""
    padding = b"ctorch.jit._pickle\nbuild_intlist\n](" + whole(0) + whole(3) + b"e\x85R"
    layer = {
        "training": b"\x89", "hook": b"N", "weight": script_tensor("0", (3, 4), (4, 1)),
        "turned": script_tensor("0", (4, 3), (1, 4)), "stride": whole(2), "padding": padding,
    }  # fmt: skip
    layer["bias"] = (
        b"ctorch._utils\n_rebuild_parameter\n(" + script_tensor("0", (2,), (1,), 5)
        + b"\x88ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip
    layer["names"] = b"ctorch.jit._pickle\nrestore_type_tag\n(}" + text("Dict[str, int]") + b"tR"
    inner = script_module("inner.___torch_mangle_3\nLayer", layer)
    beta = script_tensor("1", (2,), (1,), 1, "LongStorage")
    root = script_module(
        "net\nNet", {"layers": script_module("a\nS", {"conv": inner}), "beta": beta}
    )
    storages = {"0": TWELVE, "1": np.array([5, 6, 7])}
    found = read_weights(torchscript(tmp_path / "net.pt", root, storages)).arrays
    assert set(found) == {
        "layers.conv.weight", "layers.conv.turned", "layers.conv.bias", "beta",
    }  # fmt: skip
    np.testing.assert_array_equal(found["layers.conv.bias"], [5, 6])
    np.testing.assert_array_equal(found["layers.conv.weight"], TWELVE.reshape(3, 4))
    np.testing.assert_array_equal(found["layers.conv.turned"], TWELVE.reshape(3, 4).T)
    np.testing.assert_array_equal(found["beta"], [6, 7])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((13,), (1,), 0), ((4,), (1,), 9), ((4,), (4,), 0), ((4,), (-1,), 3), ((4,), (1,), -1),
        ((-3,), (1,), 0), ((2**31 - 1,), (0,), 0), ((3, 4), (1,), 0), ((2,), (2**31 - 1,), 0),
    ],
)  # fmt: skip
def test_torchscript_tensors_outside_their_storage(tmp_path, shape, strides, offset):
    root = script_module("net\nNet", {"x": script_tensor("0", shape, strides, offset)})
    with pytest.raises(ValueError, match=r"^[^\n]* holds no arrays that can be read \(a tensor"):
        read_weights(torchscript(tmp_path / "net.pt", root, {"0": TWELVE}))


MKDIR = b"cos\nmkdir\n" + text("it_ran") + b"\x85R"


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (script_module("net\nNet", {"x": MKDIR}), "wants os.mkdir"),
        (script_module("net\nNet", {"x": b"ctorch.jit._pickle\nother\n)R"}), "_pickle.other"),
        (b"c__torch__evil\nNet\n)\x81", "wants __torch__evil.Net"),
        (b"c__torch__.net\nNet\n" + whole(3) + b"\x85\x81", "an object with arguments"),
        (b"c__torch__.net\nNet\n)\x81" + whole(3) + b"b", "fields are a int"),
        (
            b"(" + text("other") + b"ctorch\nFloatStorage\n" + text("0") + b"tQ",
            "that is no storage",
        ),
        (b"c__torch__.net\nNet\n)\x81" + b"ctorch\nOther\n", "wants torch.Other"),
        (b"cother\nFloatStorage\n", "wants other.FloatStorage"),
        (b"cother\nbuild_intlist\n", "wants other.build_intlist"),
        (b"]", "it holds a list, no dict of tensors and no module"),
        (script_module("n\nN", {"x": script_tensor("7", (2,), (1,))}), "out/data/7"),
    ],
)
def test_torchscript_that_is_refused(tmp_path, monkeypatch, root, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^[^\n]* holds no arrays [^\n]*{said}[^\n]*$"):
        read_weights(torchscript(tmp_path / "net.pt", root, {"0": TWELVE}))
    assert not (tmp_path / "it_ran").exists()


def test_tensors_of_a_dict_are_named_by_the_text_of_their_keys(tmp_path):
    root = b"}(" + whole(7) + script_tensor("0", (2,), (1,), 3) + text("n") + whole(1) + b"u"
    found = read_weights(torchscript(tmp_path / "dict.pt", root, {"0": TWELVE})).arrays
    assert list(found) == ["7"]
    np.testing.assert_array_equal(found["7"], [3, 4])


def test_a_stream_refers_to_storages_in_its_object_alone(tmp_path):
    path = tmp_path / "stream.pth"
    path.write_bytes(
        b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + b"tQ."
    )
    with pytest.raises(ValueError, match="it refers to something that is no storage"):
        read_weights(str(path))


def test_torchscript_module_that_holds_itself(tmp_path):
    """Memoized before its fields are given: it is gone into once."""
    fields = b"}(" + text("me") + b"h\x00" + text("x") + script_tensor("0", (2,), (1,)) + b"ub"
    root = b"c__torch__.net\nNet\n)\x81q\x00" + fields
    found = read_weights(torchscript(tmp_path / "net.pt", root, {"0": TWELVE})).arrays
    assert list(found) == ["x"]


def test_torchscript_module_of_two_names_has_the_first(tmp_path):
    part = b"c__torch__\nPart\n)\x81q\x01}(" + text("x") + script_tensor("0", (2,), (1,)) + b"ub"
    root = b"c__torch__.net\nNet\n)\x81}(" + text("a") + part + text("b") + b"h\x01ub"
    found = read_weights(torchscript(tmp_path / "net.pt", root, {"0": TWELVE})).arrays
    assert list(found) == ["a.x"]
