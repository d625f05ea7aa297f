"""Floats on the host: their dtypes, where they lie, and how they are copied."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from gpt2jax.errors import GPT2JaxWarning

DType = Literal["float32", "bfloat16", "float16"]

# What a weight may be stored as, by the name that numpy gives it; files are little-endian.
FLOATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(jnp.bfloat16),
}

# Columns that are copied at once from a transposed matrix: long enough runs of the target, few enough rows of the
# source to stay in the cache between two columns. Without it such a copy took three times as long.
_COLUMNS = 256


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """An uninitialised array that jax takes over on CPU as it is; one aligned to less it copies."""
    size = FLOATS[dtype].itemsize * math.prod(shape)
    block = np.empty(size + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + size].view(FLOATS[dtype]).reshape(shape)


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """``target[...] = source`` for arrays of one shape and floats of any width; quick for transposed sources too."""
    with np.errstate(over="ignore"):  # Into float16; warn_of_non_finite tells of it.
        if source.ndim < 2 or source.strides[-1] <= source.itemsize:
            target[...] = source
            return
        outer = [axis for axis in range(source.ndim - 1) if source.strides[axis] > source.strides[-1]]
        for place in np.ndindex(*(source.shape[axis] for axis in outer)):
            for start in range(0, source.shape[-1], _COLUMNS):
                index: list[Any] = [slice(None)] * (source.ndim - 1) + [slice(start, start + _COLUMNS)]
                for axis, at in zip(outer, place, strict=True):
                    index[axis] = at
                target[tuple(index)] = source[tuple(index)]


def contiguous(array: np.ndarray, dtype: DType) -> np.ndarray:
    """``array`` in C order as ``dtype``: itself where it is that already."""
    if array.flags.c_contiguous and array.dtype == FLOATS[dtype]:
        return array
    out = np.empty(array.shape, FLOATS[dtype])
    copy(out, array)
    return out


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, as files take them."""
    return array.reshape(-1).view(np.uint8).data


def count_non_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    with np.errstate(all="ignore"):  # A finite sum has finite terms, and takes a fraction of the work.
        if np.isfinite(np.add.reduce(array, axis=None, dtype=np.float32)):
            return 0
    return int(array.size - np.isfinite(array).sum())


def in_dtype(name: str, dtype: DType) -> str:
    """``name`` as it is told of after rounding to ``dtype``, which may be what made a value infinite."""
    return name if dtype == "float32" else f"{name} in {dtype}"


def warn_of_non_finite(counts: Mapping[str, int], name: str, where: str) -> None:
    """Warn of values of ``name`` in some of its parts, when there are any: what is computed with them is lost."""
    found = {part: count for part, count in counts.items() if count}
    if found:
        parts = f" ({', '.join(filter(None, found))})" if any(found) else ""
        text = f"{where}: {name}: {sum(found.values()):,} of its values are NaN or infinite{parts}"
        warnings.warn(text, GPT2JaxWarning, stacklevel=2)
