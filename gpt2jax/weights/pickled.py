"""A pickle of tensors, read without executing anything, and written, both without torch.

A pickle is a program that may call any function. Here a call can reach nothing but the few names below, which stand
for torch's and only note their arguments; any other name is refused.
"""

import collections
import dataclasses
import io
import pickle
import pickletools
import struct
from typing import Any, BinaryIO

from gpt2jax.errors import GPT2JaxError

# The classes of torch's typed storages, by which a pickle tells dtypes.
STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_STORAGE_CLASSES = {dtype: name for name, dtype in STORAGES.items()}
ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers that lies outside the pickle."""

    dtype: str
    key: str
    count: int

    @property
    def bytes(self) -> int:
        return self.count * ITEM_BYTES.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True)
class PickledTensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self, name: str, where: str) -> None:
        """Refuse a view that leaves its storage, or that is none."""
        numbers = (self.offset, *self.shape, *self.stride)
        sound = len(self.shape) == len(self.stride) and all(isinstance(n, int) and n >= 0 for n in numbers)
        if sound and 0 not in self.shape:
            last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
            sound = self.offset + last < self.storage.count
        if not sound:
            raise GPT2JaxError(f"{where}: {name}: reaches outside its storage: damaged")


class _Rebuild:
    """Stands for a function of torch's. Not a function of ours: a pickle could set attributes of that."""

    __slots__ = ()


class _RebuildTensor(_Rebuild):
    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> PickledTensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return PickledTensor(storage, offset, tuple(shape), tuple(stride))

    __slots__ = ()


class _RebuildParameter(_Rebuild):
    def __call__(self, data: Any, *_: Any) -> Any:
        return data

    __slots__ = ()


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "Size"): tuple,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    where = ""

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise GPT2JaxError(
                f"{self.where}: its pickle names {module}.{name}: only tensors and plain values are loaded from it"
            )
        return found

    def persistent_load(self, reference: Any) -> Storage:
        match reference:
            case ("storage", str(dtype), str(key), _, int(count)) | (
                "storage",
                str(dtype),
                str(key),
                _,
                int(count),
                None,
            ) if dtype in _STORAGE_CLASSES:
                return Storage(dtype, key, count)
        raise pickle.UnpicklingError("a reference to something else than a storage")


def load(file: BinaryIO, where: str) -> Any:
    """The value of the pickle at the position of ``file``, with :class:`PickledTensor` for tensors.

    Raises:
        GPT2JaxError: damaged, or it holds something else than tensors and plain values.
    """
    try:
        unpickler = _Unpickler(io.BytesIO(_one_pickle(file)), encoding="utf-8")
        unpickler.where = where
        return unpickler.load()
    except GPT2JaxError:
        raise
    except Exception as error:  # A damaged pickle can end in nearly any of them.
        raise GPT2JaxError(f"{where}: its pickle cannot be read ({str(error) or type(error).__name__})") from None


def _one_pickle(file: BinaryIO) -> bytes:
    """The bytes of the pickle at the position of ``file``, up to its end.

    Its opcodes are looked through first: a few bytes can ask the unpickler for gigabytes of memo.
    """
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > (position or 0):
            raise pickle.UnpicklingError(f"memo entry {argument} at byte {position}")
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


def dump(value: Any) -> bytes:
    """A pickle (protocol 2) of dicts, strings, numbers, None and :class:`PickledTensor`, as ``torch.load`` takes it.

    Written here, opcode by opcode: Python's pickler insists on importing what it names.
    """
    out = bytearray(b"\x80\x02")
    _dump(value, out)
    return bytes(out + b".")


def _dump(value: Any, out: bytearray) -> None:
    match value:
        case None:
            out += b"N"
        case bool():
            out += b"\x88" if value else b"\x89"
        case int():
            out += b"\x8a" + _counted(value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), "<B")
        case float():
            out += b"G" + struct.pack(">d", value)
        case str():
            out += b"X" + _counted(value.encode(), "<I")
        case dict():
            out += b"}("
            for key, entry in value.items():
                _dump(key, out)
                _dump(entry, out)
            out += b"u"
        case tuple():
            out += b"("
            for entry in value:
                _dump(entry, out)
            out += b"t"
        case PickledTensor():
            storage = value.storage
            out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
            _dump("storage", out)
            out += f"ctorch\n{_STORAGE_CLASSES[storage.dtype]}\n".encode()
            for part in (storage.key, "cpu", storage.count):
                _dump(part, out)
            out += b"tQ"
            for entry in (value.offset, value.shape, value.stride, False):
                _dump(entry, out)
            out += b"ccollections\nOrderedDict\n)RtR"  # The hooks of the backward pass: none.
        case _:
            raise TypeError(f"{type(value).__name__} cannot be pickled here")


def _counted(data: bytes, form: str) -> bytes:
    return struct.pack(form, len(data)) + data
