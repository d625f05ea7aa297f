"""The sorted table of LevelDB, which TensorFlow uses as the index of a checkpoint: read and written.

As in tensorflow/core/lib/io/table_format.txt: blocks of entries whose keys share prefixes, an empty block of meta
data, a block with the last key and the place of each block, and a footer. Every block ends with its compression and
a masked CRC-32C.
"""

from collections.abc import Iterator
from pathlib import Path

import crc32c

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights.mapped import MappedFile

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
# TensorFlow's own choices (tensorflow/core/lib/io/table_options.h).
BLOCK_BYTES = 262144
RESTART_INTERVAL = 16

Entry = tuple[bytes, bytes]


def masked_crc(data: bytes | memoryview) -> int:
    """CRC-32C, rotated and moved, as LevelDB stores it: a checksum of data that holds checksums would be weak."""
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(file: MappedFile) -> Iterator[Entry]:
    """The entries of a table, in order.

    Raises:
        GPT2JaxError: cut short, damaged, compressed, or no table.
    """
    if file.size < FOOTER_BYTES or file.bytes(file.size - 8).tobytes() != MAGIC:
        raise GPT2JaxError(f"{file.path}: no table footer at its end: cut short, or not a tensor bundle's index")
    footer = Reader(file.bytes(file.size - FOOTER_BYTES, FOOTER_BYTES).tobytes(), file.path)
    footer.varint(), footer.varint()  # The block of meta data, which bundles leave empty.
    for _, handle in _read_block(file, footer.varint(), footer.varint()):
        reader = Reader(handle, file.path)
        yield from _read_block(file, reader.varint(), reader.varint())


def _read_block(file: MappedFile, offset: int, size: int) -> Iterator[Entry]:
    block = file.bytes(offset, size + 5).tobytes()
    found, wanted = masked_crc(block[: size + 1]), int.from_bytes(block[size + 1 :], "little")
    if found != wanted:
        raise GPT2JaxError(f"{file.path}: checksum {found:08x} of the block at {offset}: should be {wanted:08x}")
    if block[size]:
        kind = "snappy" if block[size] == 1 else f"type {block[size]}"
        raise GPT2JaxError(f"{file.path}: the block at {offset} is compressed ({kind}): should be uncompressed")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    reader, key = Reader(block[: size - 4 - 4 * restarts], file.path), b""
    while not reader.at_end():
        shared, added, length = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(added)
        yield key, reader.take(length)


class Reader:
    """A cursor over bytes of varints and strings."""

    def __init__(self, data: bytes, where: Path) -> None:
        self.data, self.where, self.at = data, where, 0

    def at_end(self) -> bool:
        return self.at >= len(self.data)

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise GPT2JaxError(f"{self.where}: an entry goes past its end: damaged")
        return self.data[self.at - count : self.at]


class _Block:
    """A block that is being written."""

    def __init__(self, interval: int = RESTART_INTERVAL) -> None:
        self.interval, self.count, self.last = interval, 0, b""
        self.out, self.restarts = bytearray(), [0]

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self.count % self.interval:
            shared = _shared(self.last, key)
        elif self.count:
            self.restarts.append(len(self.out))
        self.out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self.count, self.last = self.count + 1, key

    def size(self) -> int:
        return len(self.out) + 4 * len(self.restarts) + 4

    def append_to(self, table: bytearray) -> bytes:
        """Write the block at the end of ``table``; its place there."""
        place = varint(len(table)) + varint(self.size())
        block = bytes(self.out)
        block += b"".join(number.to_bytes(4, "little") for number in [*self.restarts, len(self.restarts)])
        block += b"\0"  # Not compressed.
        table += block + masked_crc(block).to_bytes(4, "little")
        return place


def encode_table(entries: list[Entry]) -> bytes:
    """A table of ``entries``, which are sorted by key: byte for byte what TensorFlow writes."""
    table, block, index = bytearray(), _Block(), _Block(interval=1)
    for number, (key, value) in enumerate(entries):
        block.add(key, value)
        following = entries[number + 1][0] if number + 1 < len(entries) else None
        if following is None or block.size() >= BLOCK_BYTES:
            index.add(_separator(key, following), block.append_to(table))
            block = _Block()
    footer = _Block().append_to(table) + index.append_to(table)
    return bytes(table) + footer.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC


def _shared(left: bytes, right: bytes) -> int:
    """How many bytes two keys start with in common."""
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


def _separator(key: bytes, following: bytes | None) -> bytes:
    """A short key from ``key`` on and below ``following``: what the index holds for the block that ends with it."""
    if following is None:
        at = next((at for at, byte in enumerate(key) if byte != 0xFF), len(key))
    else:
        at = _shared(key, following)
        if at == len(key) or key[at] + 1 >= following[at]:
            return key
    return key[:at] + bytes([key[at] + 1]) if at < len(key) else key


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set where more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
