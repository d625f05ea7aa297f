"""Safetensors files, read and written a tensor at a time.

The format (huggingface/safetensors, README): eight bytes with the size of a JSON header, the header, the data. The
package's own numpy interface takes all tensors at once to write, and reads a copy of a tensor where shards are filled
from a view of the file.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import parse_json
from gpt2jax.weights.arrays import FLOATS, DType, raw
from gpt2jax.weights.mapped import MappedFile, Tensor

MAX_HEADER_BYTES = 100_000_000  # The package's own limit.

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {name: code for code, name in _DTYPES.items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], MappedFile]:
    """The tensors of a file, and the file.

    Raises:
        GPT2JaxError: cut short, too long, or damaged.
    """
    file = MappedFile(path)
    size = int.from_bytes(file.bytes(0, 8).tobytes(), "little")
    if size > min(MAX_HEADER_BYTES, file.size - 8):
        raise GPT2JaxError(f"{path}: {file.size:,} bytes, of which {size:,} header: cut short, or no safetensors")
    header = parse_json(file.bytes(8, size).tobytes(), f"{path}: its header")
    try:
        header.pop("__metadata__", None)
        rows = {}
        for name, row in header.items():
            start, stop = map(int, row["data_offsets"])
            rows[name] = (str(row["dtype"]), tuple(map(int, row["shape"])), start, stop)
        end = max((stop for _, _, _, stop in rows.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise GPT2JaxError(f"{path}: its header cannot be read ({error}): damaged") from None
    if 8 + size + end != file.size:
        raise GPT2JaxError(f"{path}: {file.size:,} bytes: should be {8 + size + end:,}: cut short or damaged")
    return {name: _tensor(file, name, 8 + size, *row) for name, row in rows.items()}, file


def _tensor(file: MappedFile, name: str, base: int, code: str, shape: tuple[int, ...], start: int, stop: int) -> Tensor:
    dtype = _DTYPES.get(code, code)
    if start < 0 or stop < start or (dtype in FLOATS and stop - start != math.prod(shape) * FLOATS[dtype].itemsize):
        raise GPT2JaxError(f"{file.path}: {name}: bytes {start:,} to {stop:,} do not hold {list(shape)} of {code}")
    return Tensor(dtype, shape, lambda: file.array(base + start, dtype, shape))


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: DType, arrays: Iterable[np.ndarray]
) -> None:
    """Write a file of tensors of one dtype, whose contiguous values are taken one by one in the order of ``shapes``."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers insists on this entry.
    offset = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * FLOATS[dtype].itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # So that the data is aligned.
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in arrays:
            file.write(raw(array))
