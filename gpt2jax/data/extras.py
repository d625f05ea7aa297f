"""Packages that only some corpora need, opened with an error line that says how to get them."""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from gpt2jax.errors import GPT2JaxError


def _orjson() -> Any:
    try:
        import orjson
    except ImportError:
        return None
    return orjson


orjson = _orjson()


def quick_record(line: str | bytes) -> dict[str, Any] | None:
    """What ``json.loads`` makes of a line of UTF-8, in less time, where that is an object and the package orjson is
    there; None leaves it to json: what orjson refuses, such as halves of surrogate pairs and NaN, json may take."""
    if orjson is None:
        return None
    try:
        record = orjson.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@contextlib.contextmanager
def parquet_file(name: str) -> Iterator[Any]:
    """A Parquet file as pyarrow opens it.

    Raises:
        GPT2JaxError: pyarrow is not there, or the file is not Parquet.
    """
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        raise GPT2JaxError(f"{name}: Parquet needs the package pyarrow: pip install 'gpt2jax[corpora]'") from None
    try:
        # Without a memory map: what is read would count as the process' memory.
        with pyarrow.parquet.ParquetFile(name, memory_map=False) as file:
            yield file
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise GPT2JaxError(f"{name}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


@contextlib.contextmanager
def decompressed(file: BinaryIO, compression: str | None, name: str) -> Iterator[BinaryIO]:
    """The bytes of an open file, which may be compressed, as a stream.

    Raises:
        GPT2JaxError: zstandard is not there, or the bytes are not what their name says.
    """
    if compression is None:
        yield file
        return
    try:
        if compression == "gzip":
            with gzip.open(file, "rb") as stream:
                yield cast(BinaryIO, stream)
            return
        try:
            import zstandard
        except ImportError:
            raise GPT2JaxError(f"{name}: zstd needs the package zstandard: pip install 'gpt2jax[corpora]'") from None
        try:
            yield cast(BinaryIO, _ZstdFrames(file, zstandard.ZstdDecompressor().decompressobj, name))
        except zstandard.ZstdError as error:
            raise GPT2JaxError(f"{name}: damaged: not zstd ({error})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise GPT2JaxError(f"{name}: damaged: not gzip ({error})") from None


class _ZstdFrames:
    """The bytes of zstd frames in a row. Unlike zstandard's own stream, it notices that the last one is cut short."""

    # Of the file, decompressed at once. A block of 128 KiB may take four bytes, so this is at most 128 MiB.
    _READ = 2**12

    def __init__(self, file: BinaryIO, new_frame: Callable[[], Any], name: str) -> None:
        self._file, self._new_frame, self._name = file, new_frame, name
        self._frame: Any = None
        self._raw = self._text = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            GPT2JaxError: the file ends inside a frame.
        """
        while self._at == len(self._text):
            self._raw = self._raw or self._file.read(self._READ)
            if not self._raw:
                if self._frame is not None:
                    raise GPT2JaxError(f"{self._name}: damaged: ends in the middle of a zstd frame")
                return b""
            if self._frame is None:
                self._frame = self._new_frame()
            self._text, self._at = self._frame.decompress(self._raw), 0
            self._raw = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        start, self._at = self._at, min(self._at + size, len(self._text))
        return self._text[start : self._at]
