"""Files mapped into memory: their arrays are read from disk as they are touched, and let go of when asked."""

import dataclasses
import math
import mmap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights.arrays import FLOATS


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a foreign file that has not been read yet."""

    dtype: str
    """numpy's name of it."""
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    """Its values, as a view of the mapped file. Where the format has a checksum, it has been compared by then."""


def once(check: Callable[[], None]) -> Callable[[], None]:
    """``check`` on the first call, whichever thread makes it; later ones wait for it."""
    lock, done = threading.Lock(), False

    def checked() -> None:
        nonlocal done
        with lock:
            if not done:
                check()
                done = True

    return checked


def first_bytes(path: Path, count: int) -> bytes:
    """Up to ``count`` bytes from the start of a file, by which its kind is known."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error.strerror})") from None


class MappedFile:
    """A file as one read-only buffer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = path.stat().st_size
                # An empty file cannot be mapped.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except OSError as error:
            raise GPT2JaxError(f"{path}: cannot be read ({error.strerror})") from None

    def bytes(self, offset: int = 0, size: int | None = None) -> np.ndarray:
        """``size`` bytes (default: all that follow) from ``offset`` on: uint8, a view.

        Raises:
            GPT2JaxError: the file ends before them.
        """
        size = self.size - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > self.size:
            raise GPT2JaxError(
                f"{self.path}: {self.size:,} bytes: cut short or damaged: should be {offset + size:,} or more"
            )
        return np.frombuffer(self._map, np.uint8, size, offset) if self._map and size else np.empty(0, np.uint8)

    def array(self, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array that starts at ``offset``, aligned or not: a view."""
        kind = FLOATS.get(dtype, np.dtype(dtype))
        return self.bytes(offset, math.prod(shape) * kind.itemsize).view(kind).reshape(shape)

    def release(self) -> None:
        """Let go of the memory of what has been read; touched again, it is read again."""
        if self._map and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
