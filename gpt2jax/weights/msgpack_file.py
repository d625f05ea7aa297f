"""Flax's msgpack files, read a tensor at a time.

``flax.serialization.msgpack_restore`` holds the file and all its arrays at once; here only the names and places of
the arrays are read, and each array is a view of the mapped file. An array is an extension of type 1 that holds
another message: its shape, its dtype's name and its bytes (flax/serialization.py, ``_ndarray_to_bytes``).
"""

import math
from pathlib import Path

import msgpack

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights.arrays import FLOATS
from gpt2jax.weights.mapped import MappedFile, Tensor

ARRAY = 1
MAX_DEPTH = 16

# By its first byte, how many bytes say the size of what follows (msgpack's specification, "Formats").
_MAP_BYTES = {0xDE: 2, 0xDF: 4}
_STR_BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXT_BYTES = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_BIN_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def read_msgpack(path: Path) -> tuple[dict[str, Tensor], MappedFile]:
    """The arrays of nested maps, named by their keys with ``/`` between them.

    Raises:
        GPT2JaxError: cut short, or something else than nested maps of arrays.
    """
    file = MappedFile(path)
    cursor = _Cursor(file)
    tensors: dict[str, Tensor] = {}
    _read_map(cursor, "", tensors)
    if cursor.at != file.size:
        raise GPT2JaxError(f"{path}: {file.size:,} bytes: should end after {cursor.at:,}: damaged")
    return tensors, file


class _Cursor:
    def __init__(self, file: MappedFile, at: int = 0) -> None:
        self.file, self.at = file, at

    def take(self, count: int) -> bytes:
        self.at += count
        return self.file.bytes(self.at - count, count).tobytes()

    def peek(self) -> int:
        return self.file.bytes(self.at, 1).tobytes()[0]

    def size(self, kinds: dict[int, int], what: str) -> int:
        """The size that a header of one of ``kinds`` gives."""
        kind = self.take(1)[0]
        if kind not in kinds:
            raise GPT2JaxError(f"{self.file.path}: byte {self.at - 1:,} is 0x{kind:02x}: should begin {what}")
        return int.from_bytes(self.take(kinds[kind]), "big")


def _read_map(cursor: _Cursor, prefix: str, tensors: dict[str, Tensor]) -> None:
    if prefix.count("/") > MAX_DEPTH:
        raise GPT2JaxError(f"{cursor.file.path}: maps within maps {MAX_DEPTH} deep: not the parameters of a model")
    first = cursor.peek()
    count = cursor.take(1)[0] & 0x0F if first & 0xF0 == 0x80 else cursor.size(_MAP_BYTES, "a map")
    for _ in range(count):
        first = cursor.peek()
        length = cursor.take(1)[0] & 0x1F if first & 0xE0 == 0xA0 else cursor.size(_STR_BYTES, "a key")
        name = prefix + cursor.take(length).decode(errors="replace")
        first = cursor.peek()
        if first in _EXT_BYTES or first in _FIXED_EXT:
            tensors[name] = _read_array(cursor, name)
        else:
            _read_map(cursor, f"{name}/", tensors)


def _read_array(cursor: _Cursor, name: str) -> Tensor:
    file, first = cursor.file, cursor.peek()
    if first in _FIXED_EXT:
        cursor.take(1)
        size = _FIXED_EXT[first]
    else:
        size = cursor.size(_EXT_BYTES, "an array")
    kind = cursor.take(1)[0]
    end = cursor.at + size
    file.bytes(cursor.at, size)
    if kind != ARRAY:
        raise GPT2JaxError(f"{file.path}: {name}: msgpack extension {kind}: should be {ARRAY}, an array")
    try:  # The shape and the dtype's name take a few bytes.
        unpacker = msgpack.Unpacker()
        unpacker.feed(file.bytes(cursor.at, min(size, 256)).tobytes())
        unpacker.read_array_header()
        shape, dtype = unpacker.unpack(), unpacker.unpack()
        shape, dtype = tuple(int(length) for length in shape), str(dtype)
        cursor.at += unpacker.tell()
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise GPT2JaxError(f"{file.path}: {name}: not an array ({error})") from None
    length = cursor.size(_BIN_BYTES, "an array's bytes")
    offset, cursor.at = cursor.at, end
    if dtype in FLOATS and length != math.prod(shape) * FLOATS[dtype].itemsize:
        raise GPT2JaxError(f"{file.path}: {name}: {length:,} bytes do not hold {list(shape)} of {dtype}")
    return Tensor(dtype, shape, lambda: file.array(offset, dtype, shape))
