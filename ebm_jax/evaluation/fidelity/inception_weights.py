"""Arrays from the files that networks are shared in, without the libraries that wrote them.

`.npz`, `.safetensors`, PyTorch's state dicts in both of its formats, the zip archive (since 1.6)
and the older stream of pickles, and TorchScript archives, whose arrays are named as the module's
state dict names them and whose code is left alone. A pickle is a program; the one here can do
nothing but name the handful of functions that tensors in dicts and modules need, and is refused for
any other.
"""

import collections
import hashlib
import io
import json
import math
import pathlib
import pickle
import zipfile
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of PyTorch's older format
_TORCH_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bf16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "|b1",
}  # fmt: skip
# What TorchScript makes lists of numbers and of tensors with, and strings and dicts of a type.
_TORCHSCRIPT_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
_SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bf16",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "|b1",
}  # fmt: skip


class WeightsFile(NamedTuple):
    """arrays: by name, as stored. sha256: of the file, hexadecimal. path: as given."""

    arrays: dict[str, np.ndarray]
    sha256: str
    path: str


def read_weights(path: str) -> WeightsFile:
    """Reads .npz, .safetensors, a PyTorch state dict or a TorchScript archive (.pt, .pth, ...).

    Raises:
      ValueError: for a file that is not there, is damaged, or holds something else; one line.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if path.endswith(".npz"):
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
        elif path.endswith(".safetensors"):
            arrays = _safetensors(content)
        elif zipfile.is_zipfile(io.BytesIO(content)):
            arrays = _torch_zip(content)
        else:
            arrays = _torch_stream(io.BytesIO(content))
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # damaged and hostile bytes make the readers raise errors of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} holds no arrays that can be read ({reason}): give a state dict saved by "
            "torch.save, a TorchScript archive, a .safetensors or a .npz"
        ) from error
    return WeightsFile(arrays, hashlib.sha256(content).hexdigest(), path)


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    """8 bytes of length, a JSON header of that length, then the arrays' bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < start:
        raise ValueError("it is cut off")
    header = json.loads(content[8:start])
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            if not 0 <= first <= last <= len(content) - start:
                raise ValueError(f"{name} lies beyond its end")
            flat = _flat(content[start + first : start + last], _SAFETENSORS_TYPES[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
    return arrays


def _torch_zip(content: bytes) -> dict[str, np.ndarray]:
    """One pickle, data.pkl, whose tensors name the archive's members data/<key>."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")

        def storage(kind: str, key: str) -> np.ndarray:
            return _flat(archive.read(f"{folder}data/{key}"), _TORCH_TYPES[kind])

        reader = _Reader(io.BytesIO(archive.read(pickled)), storage)
        return _tensors(reader.load())


def _torch_stream(file: BinaryIO) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, the machine, the object, the storages' keys; storages.

    The object comes before the numbers, so that its tensors are made when both are there.
    """
    if _Reader(file, None).load() != _MAGIC:
        raise ValueError("it does not begin as PyTorch's files do")
    for _ in ("version", "machine"):
        _Reader(file, None).load()
    kinds: dict[str, str] = {}
    storages: dict[str, np.ndarray] = {}

    def storage(kind: str, key: str) -> str:
        kinds[key] = kind
        return key

    found = _Reader(file, storage, storages).load()
    for key in _Reader(file, None).load():
        number = int.from_bytes(file.read(8), "little")
        size = np.dtype(_plain(_TORCH_TYPES[kinds[key]])).itemsize
        stored = file.read(number * size)
        if len(stored) < number * size:
            raise ValueError("it is cut off")
        storages[key] = _flat(stored, _TORCH_TYPES[kinds[key]])
    return _tensors(found)


class _Storage(NamedTuple):
    kind: str


class _Module:
    """A TorchScript object, of whatever class: its fields and nothing that it can do."""

    fields: dict[str, Any]

    def __new__(cls, *args: Any):
        if args:  # as no TorchScript object has
            raise pickle.UnpicklingError("it makes an object with arguments")
        module = super().__new__(cls)
        module.fields = {}
        return module

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"an object's fields are a {type(state).__name__}")
        self.fields = state


class _LaterTensor(NamedTuple):
    """A tensor by its storage (an array, or a key of `storages`), offset, shape and strides."""

    storage: Any
    storages: dict[str, np.ndarray] | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor's numbers, copied.

        The file says which of the storage's numbers they are, and what it says may be a lie: with
        strides that reach outside the storage a view would read other memory of this process. No
        stride is negative, as in PyTorch, so that offset is the lowest place read and `last` the
        highest; and no tensor has more numbers than its storage, which a stride of 0 would allow.

        Raises:
          ValueError: for numbers that are not integers, are negative, or reach beyond the storage.
        """
        flat = self.storage if self.storages is None else self.storages[self.storage]
        if not isinstance(flat, np.ndarray):
            raise ValueError(f"a tensor's storage is a {type(flat).__name__}")
        for number in (self.offset, *self.shape, *self.strides):
            if type(number) is not int or number < 0:
                raise ValueError(f"a tensor's offset, size or stride is {number!r}")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has {len(self.shape)} sizes, {len(self.strides)} strides")
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if last >= len(flat) or math.prod(self.shape) > len(flat):
            raise ValueError("a tensor reaches beyond its storage")
        # A stride along an axis of one is never walked, and may be of any size.
        strides = [
            stride * flat.itemsize * (size > 1)
            for size, stride in zip(self.shape, self.strides, strict=True)
        ]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.array(view)


class _Reader(pickle.Unpickler):
    """Unpickles what tensors in dicts and TorchScript's modules consist of and nothing else."""

    def __init__(self, file: BinaryIO, storage: Any, storages: Any = None):
        super().__init__(file)
        self._storage = storage
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (
            ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")
        ):  # fmt: skip
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _TORCH_TYPES:
            return _Storage(name)
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch.jit._pickle" and name in _TORCHSCRIPT_LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _type: value
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no state dict needs")

    def persistent_load(self, saved: tuple[Any, ...]) -> Any:
        what, kind, key = saved[:3]
        if what != "storage" or self._storage is None:
            raise pickle.UnpicklingError("it refers to something that is no storage")
        return self._storage(kind.kind, key)

    def _tensor(self, storage, offset, shape, strides, *_: Any) -> _LaterTensor:
        return _LaterTensor(storage, self._storages, offset, tuple(shape), tuple(strides))


def _tensors(found: Any) -> dict[str, np.ndarray]:
    """The tensors of a dict by their names, or those of a module and its modules, dotted.

    An object that is met again, as a file may have it of itself, is gone into once.
    """
    if isinstance(found, dict):
        return {str(k): tensor.array() for k, tensor in found.items() if _is_tensor(tensor)}
    if not isinstance(found, _Module):
        raise ValueError(f"it holds a {type(found).__name__}, no dict of tensors and no module")
    arrays, seen, remaining = {}, {id(found)}, [("", found)]
    while remaining:
        prefix, module = remaining.pop()
        for name, value in module.fields.items():
            if _is_tensor(value):
                arrays[f"{prefix}{name}"] = value.array()
            elif isinstance(value, _Module) and id(value) not in seen:
                seen.add(id(value))
                remaining.append((f"{prefix}{name}.", value))
    return arrays


def _is_tensor(value: Any) -> bool:
    return isinstance(value, _LaterTensor)


def _plain(kind: str) -> str:
    return "<u2" if kind == "bf16" else kind


def _flat(content: bytes, kind: str) -> np.ndarray:
    """The numbers of a storage; bfloat16 as the float32 of the same upper half."""
    flat = np.frombuffer(content, _plain(kind))
    if kind != "bf16":
        return flat
    return (flat.astype(np.uint32) << 16).view(np.float32)
