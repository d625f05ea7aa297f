"""Files of ``torch.save``, read and written without torch.

Since torch 1.6 such a file is an uncompressed zip of a pickle, ``data.pkl``, and a file for each storage. Before, it
was a row of pickles with the storages after them; Hugging Face's oldest uploads of GPT-2 are of that form.
"""

import collections
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import pickled
from gpt2jax.weights.arrays import DType, raw
from gpt2jax.weights.mapped import MappedFile, Tensor, first_bytes, once
from gpt2jax.weights.pickled import PickledTensor, Storage

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
_ZIP_START = b"PK\x03\x04"
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ALIGNMENT = 64


def is_torch_file(path: Path) -> bool:
    """Whether ``path`` starts as a file of ``torch.save`` does."""
    start = first_bytes(path, len(_LEGACY_START))
    return start.startswith(_ZIP_START) or start == _LEGACY_START


class TorchFile:
    """What a file holds; tensors in ``value`` are :class:`PickledTensor` until :meth:`tensors` gives them to read."""

    def __init__(self, path: Path) -> None:
        """Read the pickles; the storages stay on disk.

        Raises:
            GPT2JaxError: damaged, compressed, of another kind, or with something else than tensors and plain values.
        """
        self.path, self.file = path, MappedFile(path)
        self.checksums = False
        """Whether the storages' checksums are compared when they are read (CRC-32; the older form has none)."""
        self._places: dict[str, tuple[int, int]] = {}
        """Offset and bytes of each storage."""
        self._verifiers: dict[str, Callable[[], None]] = collections.defaultdict(lambda: lambda: None)
        if not is_torch_file(path):
            raise GPT2JaxError(f"{path}: not a file of torch.save, or one from before torch 0.1.10")
        self.value = self._open_zip() if first_bytes(path, 4) == _ZIP_START else self._open_legacy()

    def _open_zip(self) -> Any:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                main = next((name for name in entries if name.endswith("/data.pkl")), None)
                if main is None:
                    raise GPT2JaxError(f"{self.path}: no data.pkl in it: not a file of torch.save")
                root = main.removesuffix("data.pkl")
                for name, entry in entries.items():
                    if name.startswith(root) and entry.compress_type != zipfile.ZIP_STORED:
                        raise GPT2JaxError(f"{self.path}: {name} is compressed: should be stored as it is")
                    if name.startswith(root + "data/"):
                        self._note_entry(name.removeprefix(root + "data/"), entry)
                order = entries.get(root + "byteorder")
                if order and archive.read(order) != b"little":
                    raise GPT2JaxError(f"{self.path}: big-endian: should be little-endian")
                value = pickled.load(io.BytesIO(archive.read(main)), str(self.path))
        except GPT2JaxError:
            raise
        except Exception as error:  # A damaged directory can end in nearly any of them.
            raise GPT2JaxError(f"{self.path}: cut short or damaged ({str(error) or type(error).__name__})") from None
        self.checksums = True
        return value

    def _note_entry(self, key: str, entry: zipfile.ZipInfo) -> None:
        # The directory at the file's end does not say how long the header before the data is.
        header = self.file.bytes(entry.header_offset, 30).tobytes()
        extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._places[key] = entry.header_offset + 30 + extra, entry.file_size
        self._verifiers[key] = once(lambda: self._verify(key, entry.CRC))

    def _open_legacy(self) -> Any:
        with self.path.open("rb", buffering=0) as file:  # Unbuffered: each pickle must leave the file at its end.
            magic, version, system, value, keys = (pickled.load(file, str(self.path)) for _ in range(5))
            at = file.tell()
        if magic != LEGACY_MAGIC or version != LEGACY_VERSION or not isinstance(keys, list):
            raise GPT2JaxError(f"{self.path}: torch's protocol {version}: should be {LEGACY_VERSION}")
        if not isinstance(system, dict) or not system.get("little_endian"):
            raise GPT2JaxError(f"{self.path}: big-endian: should be little-endian")
        sizes = {tensor.storage.key: tensor.storage for tensor in _tensors_in(value)}
        for key in map(str, keys):
            if key not in sizes:
                raise GPT2JaxError(f"{self.path}: storage {key} belongs to no tensor: damaged")
            count = int.from_bytes(self.file.bytes(at, 8).tobytes(), "little")
            if count != sizes[key].count:
                raise GPT2JaxError(f"{self.path}: storage {key} holds {count} numbers: should be {sizes[key].count}")
            self._places[key] = at + 8, sizes[key].bytes
            at += 8 + sizes[key].bytes
        return value

    def tensors(self, values: dict[Any, Any]) -> dict[str, Tensor]:
        """The tensors of a dict in :attr:`value`, by their names, to be read.

        Raises:
            GPT2JaxError: another value is among them, a tensor reaches outside its storage, or its storage is missing
                or cut short.
        """
        others = [
            f"{name} is a {type(value).__name__}"
            for name, value in values.items()
            if not isinstance(value, PickledTensor)
        ]
        if others:
            raise GPT2JaxError(f"{self.path}: {'; '.join(others)}: should be tensors")
        return {str(name): self._tensor(str(name), value) for name, value in values.items()}

    def _tensor(self, name: str, pickled_tensor: PickledTensor) -> Tensor:
        storage = pickled_tensor.storage
        pickled_tensor.check(name, str(self.path))
        if storage.key not in self._places:
            raise GPT2JaxError(f"{self.path}: {name}: its storage {storage.key} is missing: damaged")
        offset, size = self._places[storage.key]
        if size != storage.bytes:
            raise GPT2JaxError(f"{self.path}: {name}: its storage has {size:,} bytes: should be {storage.bytes:,}")
        self.file.bytes(offset, size)  # It is there, before any work begins.
        verify = self._verifiers[storage.key]

        def read() -> np.ndarray:
            verify()
            flat = self.file.array(offset, storage.dtype, (storage.count,))[pickled_tensor.offset :]
            strides = tuple(step * flat.itemsize for step in pickled_tensor.stride)
            return np.lib.stride_tricks.as_strided(flat, pickled_tensor.shape, strides, writeable=False)

        return Tensor(storage.dtype, pickled_tensor.shape, read)

    def _verify(self, key: str, wanted: int) -> None:
        found = zlib.crc32(raw(self.file.bytes(*self._places[key])))
        if found != wanted:
            raise GPT2JaxError(
                f"{self.path}: storage {key}: checksum {found:08x}: should be {wanted:08x}; it is damaged"
            )


def _tensors_in(value: Any) -> Iterable[PickledTensor]:
    """Every tensor in nested dicts, lists and tuples, which may hold each other."""
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if isinstance(item, PickledTensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.values() if isinstance(item, dict) else item)


def write_torch_file(path: Path, value: Any, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write ``value`` as ``torch.save`` does, its storages taken one by one from ``arrays``.

    Args:
        value: with a :class:`PickledTensor` for each tensor.
        arrays: keys of storages, and the contiguous numbers of each.
    """
    root = path.stem.lstrip(".") or "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        main = pickled.dump(value)
        for name, data in (("data.pkl", main), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"{root}/{name}", data)
        for key, array in arrays:
            entry = zipfile.ZipInfo(f"{root}/data/{key}")
            entry.file_size = array.nbytes
            # Torch aligns storages by padding their headers, so that it can map them into memory.
            start = archive.fp.tell() + 30 + len(entry.filename)  # type: ignore[union-attr]
            padding = -(start + 4) % ALIGNMENT
            entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            with archive.open(entry, "w") as out:
                out.write(raw(array))


def storage_of(key: str, dtype: DType, shape: tuple[int, ...]) -> PickledTensor:
    """A whole storage as a tensor in C order."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= size
    return PickledTensor(Storage(dtype, key, step), 0, shape, tuple(reversed(stride)))
