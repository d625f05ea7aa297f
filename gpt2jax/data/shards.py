"""Files of tokens, as nanoGPT and llm.c write them: little-endian uint16, without and with a header; and ArrayRecord.

For vocabularies of more than 65,536 tokens they are uint32, in llm.c's format with the header of its Llama 3 files.
"""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

import numpy as np

from gpt2jax.data.records import RECORD_TOKENS, RecordWriter, record_tokens
from gpt2jax.errors import GPT2JaxError

Format = Literal["nanogpt", "llmc", "arrayrecord"]
Split = Literal["train", "validation"]

TokenBits = Literal[16, 32]
TOKENS: dict[TokenBits, np.dtype[np.generic]] = {16: np.dtype("<u2"), 32: np.dtype("<u4")}
SHARD_TOKENS = 100_000_000

# llm.c, dev/data/data_common.py: 256 int32, of which three are used: magic number, version, number of tokens.
HEADER_BYTES = 1024
MAGIC = 20240520
VERSION = 1
HEADERS: dict[TokenBits, tuple[int, int]] = {16: (MAGIC, VERSION), 32: (20240801, 7)}
# llm.c's other files, told apart by their first number. As a token, its low half is above GPT-2's vocabulary, so no
# nanoGPT file of GPT-2 tokens starts like one of these.
OTHER_MAGIC = {
    20240326: "llm.c model",
    20240327: "llm.c debug state",
    20240328: "llm.c tokenizer",
    20240522: "llm.c evaluation",
    20240527: "llm.c optimizer state",
    20240801: "llm.c Llama 3 data (32-bit tokens)",
}


@dataclasses.dataclass(frozen=True)
class Shard:
    """A checked file of tokens. Nothing of it is in memory."""

    path: Path
    format: Format
    tokens: int
    offset: int
    """Bytes before the first token."""
    bits: TokenBits = 16

    def memmap(self) -> np.ndarray:
        """The tokens [tokens], uint16 or uint32, read from disk as they are touched; of ArrayRecord, in slices."""
        if self.format == "arrayrecord":
            return record_tokens(self.path, TOKENS[self.bits])
        return np.memmap(self.path, dtype=TOKENS[self.bits], mode="r", offset=self.offset, shape=(self.tokens,))


def open_shard(path: Path, expected_format: Format | None = None, bits: TokenBits = 16) -> Shard:
    """Check the header and the size of a shard; the tokens stay on disk.

    Args:
        expected_format: what the file must be; by default llm.c's header tells.
        bits: of a token.

    Raises:
        GPT2JaxError: not such a file, empty, cut short, too long, or another kind of llm.c file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(12).ljust(12, b"\0"), dtype="<i4")
    except OSError as error:
        raise GPT2JaxError(f"{path}: cannot be read as a token shard ({error.strerror})") from None
    if size == 0:
        raise GPT2JaxError(f"{path}: 0 bytes: an empty shard; should hold at least one token")
    if expected_format == "arrayrecord":
        return Shard(path, "arrayrecord", len(record_tokens(path, TOKENS[bits])), 0, bits)
    magic, version, tokens = map(int, header)
    token, (wanted_magic, wanted_version) = TOKENS[bits], HEADERS[bits]
    if magic in OTHER_MAGIC and magic != wanted_magic:
        raise GPT2JaxError(f"{path}: header {magic}: {OTHER_MAGIC[magic]} file: should be a file of {bits}-bit tokens")
    found: Format = "llmc" if magic == wanted_magic else "nanogpt"
    if expected_format == "llmc" and found != "llmc":
        raise GPT2JaxError(f"{path}: wrong header: starts with {magic}: should start with llm.c's {wanted_magic}")
    if expected_format == "nanogpt" and found != "nanogpt":
        raise GPT2JaxError(f"{path}: wrong header: starts with llm.c's {magic}: should be nanoGPT's, without a header")
    if found == "nanogpt":
        if size % token.itemsize:
            wanted = "an even number, two bytes" if bits == 16 else "a multiple of four, four bytes"
            raise GPT2JaxError(f"{path}: {size:,} bytes: should be {wanted} a token")
        return Shard(path, "nanogpt", size // token.itemsize, 0, bits)
    if size < HEADER_BYTES:
        raise GPT2JaxError(f"{path}: {size:,} bytes: cut short: llm.c's header alone is {HEADER_BYTES:,}")
    if version != wanted_version:
        raise GPT2JaxError(f"{path}: llm.c data version {version}: unsupported: should be {wanted_version}")
    if tokens <= 0:
        raise GPT2JaxError(f"{path}: {tokens:,} tokens by its header: an empty shard; should hold at least one token")
    expected = HEADER_BYTES + tokens * token.itemsize
    if size != expected:
        fault = "cut short" if size < expected else "trailing bytes"
        raise GPT2JaxError(
            f"{path}: {size:,} bytes: {fault}: should be {expected:,} for the header's {tokens:,} tokens"
        )
    return Shard(path, "llmc", tokens, HEADER_BYTES, bits)


def check_vocabulary(tokens_T: np.ndarray, n_vocab: int, path: Path, start: int) -> None:
    """Refuse tokens outside the vocabulary, which the model would read as others.

    Args:
        path: the shard that they are of,
        start: and their place in it.

    Raises:
        GPT2JaxError: naming the first of them.
    """
    outside_T = tokens_T >= n_vocab
    if outside_T.any():
        at = int(np.argmax(outside_T))
        raise GPT2JaxError(
            f"{path}: token {start + at:,}: {tokens_T[at]}: should be below {n_vocab}, the size of the vocabulary"
        )


def check_sizes(n_vocab: int, shard_tokens: int, bits: TokenBits) -> None:
    """Refuse a vocabulary that tokens of so many bits cannot number, and files of impossible sizes.

    Raises:
        GPT2JaxError: naming which.
    """
    if bits not in TOKENS:
        raise GPT2JaxError(f"token bits: {bits}: should be 16 or 32")
    if n_vocab > 2**bits:
        more = "; or write 32 bits a token" if bits == 16 else ""
        raise GPT2JaxError(
            f"vocabulary: {n_vocab:,} tokens: should be at most {2**bits:,}, what {bits} bits hold{more}"
        )
    # llm.c's header counts in an int32.
    if not 1 <= shard_tokens < 2**31:
        raise GPT2JaxError(f"shard tokens: {shard_tokens}: should be from 1 to {2**31 - 1:,}")


class ShardWriter:
    """Writes one split, token array by token array, into as many files as it takes.

    nanoGPT's format is one file, ``train.bin`` or ``val.bin``. llm.c's are ``{name}_val_{i:06d}.bin`` from 0 and
    ``{name}_train_{i:06d}.bin`` from 1, all full but the last; ArrayRecord's are named alike, with its ending. The
    folder should be a temporary one, renamed by the caller when all is written: until :meth:`close`, the last file is
    incomplete.

    Attributes:
        files: names of the files so far.
        tokens: tokens written so far.
        counts: tokens of each file that is complete.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        split: Split,
        format: Format,
        n_vocab: int,
        shard_tokens: int = SHARD_TOKENS,
        bits: TokenBits = 16,
    ) -> None:
        check_sizes(n_vocab, shard_tokens, bits)
        self._bits = bits
        self.files: list[str] = []
        self.counts: list[int] = []
        self.tokens = 0
        self._folder = folder
        self._name = name
        self._short = {"train": "train", "validation": "val"}[split]
        self._first = {"train": 1, "validation": 0}[split]
        self._format = format
        self._n_vocab = n_vocab
        self._shard_tokens = shard_tokens
        self._file: BinaryIO | RecordWriter | None = None
        self._in_file = 0

    def write(self, tokens_T: np.ndarray) -> None:
        """Append tokens [T] of any integer dtype.

        Raises:
            GPT2JaxError: a token outside the vocabulary (which would wrap round in 16 bits, or break training).
        """
        wrong = tokens_T[(tokens_T < 0) | (tokens_T >= self._n_vocab)]
        if wrong.size:
            raise GPT2JaxError(f"token {wrong[0]}: should be from 0 to {self._n_vocab - 1}, inside the vocabulary")
        tokens_T = tokens_T.astype(TOKENS[self._bits])
        while tokens_T.size:
            file = self._file or self._start_file()
            room = tokens_T.size if self._format == "nanogpt" else self._shard_tokens - self._in_file
            file.write(tokens_T[:room].tobytes())
            written = min(room, tokens_T.size)
            self._in_file += written
            self.tokens += written
            tokens_T = tokens_T[room:]
            if tokens_T.size:
                self.close()

    def _start_file(self) -> BinaryIO | RecordWriter:
        index = self._first + len(self.files)
        ending = "array_record" if self._format == "arrayrecord" else "bin"
        name = f"{self._short}.bin" if self._format == "nanogpt" else f"{self._name}_{self._short}_{index:06d}.{ending}"
        self.files.append(name)
        self._in_file = 0
        if self._format == "arrayrecord":
            self._file = RecordWriter(self._folder / name, RECORD_TOKENS * self._bits // 8)
            return self._file
        file = (self._folder / name).open("xb")
        if self._format == "llmc":
            file.write(bytes(HEADER_BYTES))
        self._file = file
        return file

    def close(self) -> None:
        """Complete the last file."""
        if self._file is None:
            return
        if not isinstance(self._file, RecordWriter) and self._format == "llmc":
            # Last, because only now is the number of tokens known.
            self._file.seek(0)
            self._file.write(np.array([*HEADERS[self._bits], self._in_file], dtype="<i4").tobytes())
        self._file.close()
        self._file = None
        self.counts.append(self._in_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
