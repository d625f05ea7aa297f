"""TensorFlow's tensor bundle (checkpoint format V2), read and written without TensorFlow.

A bundle is an index and data files. The index is a table (:mod:`gpt2jax.weights.table`) of protocol buffers:
BundleHeaderProto under the empty key and a BundleEntryProto for each tensor (tensorflow/core/protobuf/
tensor_bundle.proto), which says where its bytes lie and what their checksum is.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights.arrays import FLOATS, DType, raw
from gpt2jax.weights.mapped import MappedFile, Tensor, once
from gpt2jax.weights.table import Reader, encode_table, masked_crc, read_table, varint

# tensorflow/core/framework/types.proto. Those that are no float of ours are there to be refused by name.
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    19: "float16",
}
_DTYPE_NUMBERS = {name: number for number, name in DTYPES.items()}

# The fields of a protocol buffer by number, each as often as it occurs.
Fields = dict[int, list[int | bytes]]


def read_bundle(prefix: Path) -> tuple[dict[str, Tensor], list[MappedFile]]:
    """The tensors of the bundle ``prefix.index`` and ``prefix.data-*``, and its data files.

    A tensor's checksum is compared when it is first read.

    Raises:
        GPT2JaxError: a file is missing, cut short or damaged, a block is compressed, a tensor is in slices.
    """
    where = Path(f"{prefix}.index")
    entries = dict(read_table(MappedFile(where)))
    header = _fields(entries.pop(b"", b""), where)
    shards, endianness = _integer(header, 1), _integer(header, 2)
    if not shards:
        raise GPT2JaxError(f"{where}: names no data files: damaged, or not a tensor bundle")
    if endianness:
        raise GPT2JaxError(f"{where}: big-endian: should be little-endian")
    files = [MappedFile(Path(f"{prefix}.data-{number:05d}-of-{shards:05d}")) for number in range(shards)]
    named = {key.decode(errors="replace"): value for key, value in entries.items()}
    return {name: _tensor(name, value, files, where) for name, value in named.items()}, files


def _tensor(name: str, value: bytes, files: list[MappedFile], where: Path) -> Tensor:
    entry = _fields(value, where)
    number, shard, offset, size = (_integer(entry, field) for field in (1, 3, 4, 5))
    dtype = DTYPES.get(number)
    if dtype is None:
        raise GPT2JaxError(f"{where}: {name}: TensorFlow's dtype {number}: should be one of {', '.join(FLOATS)}")
    if 7 in entry:
        raise GPT2JaxError(f"{where}: {name}: stored in slices (a partitioned variable): should be whole")
    if shard >= len(files):
        raise GPT2JaxError(f"{where}: {name}: in data file {shard}: there are {len(files)}")
    shape = _shape(entry, where)
    if dtype in FLOATS and size != math.prod(shape) * FLOATS[dtype].itemsize:
        raise GPT2JaxError(f"{where}: {name}: {size:,} bytes do not hold {list(shape)} of {dtype}")
    file = files[shard]
    file.bytes(offset, size)  # It is there, before any work begins.
    verify = once(lambda: _verify(name, file, offset, size, _integer(entry, 6)))

    def read() -> np.ndarray:
        verify()
        return file.array(offset, dtype, shape)

    return Tensor(dtype, shape, read)


def _verify(name: str, file: MappedFile, offset: int, size: int, wanted: int) -> None:
    found = masked_crc(raw(file.bytes(offset, size)))
    if found != wanted:
        raise GPT2JaxError(f"{file.path}: {name}: checksum {found:08x}: should be {wanted:08x}; it is damaged")


def _shape(entry: Fields, where: Path) -> tuple[int, ...]:
    shape = b"".join(field for field in entry.get(2, []) if isinstance(field, bytes))
    dims = _fields(shape, where).get(2, [])
    return tuple(_integer(_fields(dim, where), 1) for dim in dims if isinstance(dim, bytes))


def _fields(message: bytes, where: Path) -> Fields:
    """Decode a protocol buffer: integers, and bytes for what has a length."""
    reader = Reader(message, where)
    fields: Fields = {}
    while not reader.at_end():
        tag = reader.varint()
        value: int | bytes
        match tag & 7:
            case 0:
                value = reader.varint()
            case 1:
                value = int.from_bytes(reader.take(8), "little")
            case 2:
                value = reader.take(reader.varint())
            case 5:
                value = int.from_bytes(reader.take(4), "little")
            case kind:
                raise GPT2JaxError(f"{where}: a field of wire type {kind}: damaged")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _integer(fields: Fields, number: int) -> int:
    """The last value of an integer field; 0, which protocol buffers do not write, where there is none."""
    value = fields.get(number, [0])[-1]
    return value if isinstance(value, int) else 0


def write_bundle(
    prefix: Path, shapes: Mapping[str, tuple[int, ...]], dtype: DType, arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a bundle with one data file, byte for byte as TensorFlow does.

    Args:
        shapes: of every tensor, by name.
        arrays: their contiguous values by name, in any order: each goes to its place, which is in the order of names.
    """
    offsets, sizes, at = {}, {}, 0
    names = sorted(shapes, key=str.encode)
    for name in names:
        offsets[name], sizes[name] = at, math.prod(shapes[name]) * FLOATS[dtype].itemsize
        at += sizes[name]
    crcs = {}
    with Path(f"{prefix}.data-00000-of-00001").open("wb") as file:
        for name, array in arrays:
            crcs[name] = masked_crc(raw(array))
            file.seek(offsets[name])
            file.write(raw(array))
    entries = [(b"", _number(1, 1) + _message(3, _number(1, 1)))]  # One data file; version 1 of the format.
    for name in names:
        dims = b"".join(_message(2, _number(1, size)) for size in shapes[name])
        entry = _number(1, _DTYPE_NUMBERS[dtype]) + _message(2, dims)
        entry += _number(4, offsets[name]) if offsets[name] else b""
        entry += _number(5, sizes[name]) + _tag(6, 5) + crcs[name].to_bytes(4, "little")
        entries.append((name.encode(), entry))
    Path(f"{prefix}.index").write_bytes(encode_table(entries))


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + varint(value)


def _message(field: int, value: bytes) -> bytes:
    return _tag(field, 2) + varint(len(value)) + value
