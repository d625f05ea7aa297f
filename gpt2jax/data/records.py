"""Tokens in ArrayRecord files, as Grain reads them: a record holds 8,192 tokens, the last one the rest.

Little-endian, as in the other formats; records are not compressed, as tokens hardly can be.
"""

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpt2jax.errors import GPT2JaxError

RECORD_TOKENS = 2**13
# A record to a chunk, so that one is read without its neighbours.
_OPTIONS = "group_size:1,uncompressed"


class RecordTokens:
    """The tokens of a file, read from disk as they are asked for; slices alone."""

    def __init__(self, path: Path, token: np.dtype[np.generic]) -> None:
        """Only counts.

        Raises:
            GPT2JaxError: it is no such file, or holds no tokens.
        """
        self._path, self.dtype = path, token
        self._records: Any = None
        self._lock = threading.Lock()
        try:
            records = self._open()
            count = len(records)
            self._size = len(records[0]) // token.itemsize if count else 0
            last = len(records[count - 1]) if count else 0
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise GPT2JaxError(f"{path}: cannot be read as ArrayRecord ({reason})") from None
        if not self._size or last % token.itemsize:
            raise GPT2JaxError(f"{path}: {count:,} records: holds no tokens of {token.itemsize} bytes")
        self._tokens = (count - 1) * self._size + last // token.itemsize

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, places: slice) -> np.ndarray:
        start, stop, step = places.indices(self._tokens)
        if step != 1:
            raise IndexError(f"{places}: should be tokens in a row")
        if start >= stop:
            return np.zeros(0, self.dtype)
        first = start // self._size
        records = self._open()
        raw = b"".join(records[number] for number in range(first, (stop - 1) // self._size + 1))
        return np.frombuffer(raw, self.dtype)[start - first * self._size : stop - first * self._size]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)

    def _open(self) -> Any:
        with self._lock:
            if self._records is None:
                import grain

                self._records = grain.sources.ArrayRecordDataSource([str(self._path)])
            return self._records

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}


class RecordWriter:
    """Writes one file: what it is given as bytes, in records of the same size."""

    def __init__(self, path: Path, record_bytes: int) -> None:
        from array_record.python import array_record_module

        self._size, self._rest = record_bytes, b""
        path.touch(exist_ok=False)
        self._writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)

    def write(self, raw: bytes) -> None:
        raw = self._rest + raw
        whole = len(raw) - len(raw) % self._size
        for at in range(0, whole, self._size):
            self._writer.write(raw[at : at + self._size])
        self._rest = raw[whole:]

    def close(self) -> None:
        if self._rest:
            self._writer.write(self._rest)
        self._writer.close()


def record_tokens(path: Path, token: np.dtype[np.generic]) -> np.ndarray:
    """:class:`RecordTokens`, as what it stands for."""
    return cast(np.ndarray, RecordTokens(path, token))
