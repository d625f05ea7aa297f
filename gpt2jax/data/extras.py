"""Packages that only some corpora need, opened with an error line that says how to get them."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from gpt2jax.errors import GPT2JaxError


def _orjson() -> Any:
    try:
        import orjson
    except ImportError:
        return None
    return orjson


orjson = _orjson()


def fast_loads(line: str) -> Any:
    """``json.loads``, and as it in all that it takes and refuses; in less time where the package orjson is there.

    Raises:
        json.JSONDecodeError: it is not JSON.
    """
    if orjson is not None:
        try:
            return orjson.loads(line)
        except ValueError:  # What it refuses, json may take: halves of surrogate pairs, NaN. And its errors are ours.
            pass
    return json.loads(line)


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
            with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False) as stream:
                yield stream
        except zstandard.ZstdError as error:
            raise GPT2JaxError(f"{name}: damaged: not zstd ({error})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise GPT2JaxError(f"{name}: damaged: not gzip ({error})") from None
