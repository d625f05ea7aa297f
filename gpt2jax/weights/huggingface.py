"""Hugging Face's folder: config.json and the weights as safetensors, torch's pickle or Flax's msgpack."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import huggingface_config, vocabulary
from gpt2jax.weights.layout import FLAX, HUGGINGFACE
from gpt2jax.weights.mapped import MappedFile, Tensor
from gpt2jax.weights.msgpack_file import read_msgpack
from gpt2jax.weights.safetensors_file import read_safetensors
from gpt2jax.weights.torch_file import TorchFile
from gpt2jax.weights.weights import ForeignWeights, Origin, check_tensors

Tensors = tuple[dict[str, Tensor], list[MappedFile]]

PREFIX = "transformer."
# Buffers that older versions stored beside the weights: the causal mask, and the score of what it masks.
_BUFFERS = (".attn.bias", ".attn.masked_bias")
_NO_CHECKSUM = "the format carries no checksum: damage inside the numbers would not be noticed"


def is_huggingface(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_huggingface(folder: Path) -> ForeignWeights:
    """The weights of a folder; of several forms in it the first of safetensors, torch's and Flax's.

    Raises:
        GPT2JaxError: a file is missing or damaged, config.json asks for what this model is not, or tensors are not
            those of the model.
    """
    config = huggingface_config.read(folder / "config.json")
    path, (tensors, files), checksums = _find(folder)
    layout = FLAX if path.suffix == ".msgpack" else HUGGINGFACE
    if layout is FLAX:
        tensors = {name.removeprefix("transformer/"): tensor for name, tensor in tensors.items()}
    else:
        tensors = strip(tensors, str(path))
    check_tensors(tensors, layout, config, str(path))
    encoding, note = vocabulary.read(folder, config.n_vocab)
    notes = ["the checksums (CRC-32) of all tensors are compared" if checksums else _NO_CHECKSUM]
    notes += [note] if note else []
    return ForeignWeights(Origin("huggingface", str(folder), config, encoding, tuple(notes)), layout, tensors, files)


def _find(folder: Path) -> tuple[Path, Tensors, bool]:
    """The file that names the weights, the weights, and whether their checksums are compared."""
    readers: dict[str, Callable[[Path], tuple[Tensors, bool]]] = {
        "model.safetensors": _safetensors,
        "model.safetensors.index.json": lambda path: _sharded(path, _safetensors),
        "pytorch_model.bin": _torch,
        "pytorch_model.bin.index.json": lambda path: _sharded(path, _torch),
        "flax_model.msgpack": _msgpack,
    }
    for name, read in readers.items():
        if (folder / name).is_file():
            tensors, checksums = read(folder / name)
            return folder / name, tensors, checksums
    raise GPT2JaxError(f"{folder}: no weights: should hold one of {', '.join(readers)}")


def _safetensors(path: Path) -> tuple[Tensors, bool]:
    tensors, file = read_safetensors(path)
    return (tensors, [file]), False


def _msgpack(path: Path) -> tuple[Tensors, bool]:
    tensors, file = read_msgpack(path)
    return (tensors, [file]), False


def _torch(path: Path) -> tuple[Tensors, bool]:
    file = TorchFile(path)
    if not isinstance(file.value, dict):
        raise GPT2JaxError(f"{path}: holds a {type(file.value).__name__}: should be a dict of tensors")
    return (file.tensors(file.value), [file.file]), file.checksums


def _sharded(index: Path, read: Callable[[Path], tuple[Tensors, bool]]) -> tuple[Tensors, bool]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(place) for place in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GPT2JaxError(f"{index}: cannot be read as an index ({error})") from None
    tensors: dict[str, Tensor] = {}
    files: list[MappedFile] = []
    all_checked = True
    for name in names:
        if Path(name).name != name:
            raise GPT2JaxError(f"{index}: {name!r}: should be the name of a file beside it")
        (found, opened), checksums = read(index.parent / name)
        tensors |= {key: tensor for key, tensor in found.items() if places.get(key) == name}
        files += opened
        all_checked &= checksums
    missing = [f"{key} is missing from {name}" for key, name in places.items() if key not in tensors]
    if missing:
        raise GPT2JaxError(f"{index}: {'; '.join(missing)}")
    return (tensors, files), all_checked


def strip(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of GPT2Model from those of any GPT-2 of Hugging Face's or nanoGPT's.

    The prefix ``transformer.`` goes, so do buffers, and so does ``lm_head.weight`` when it is the token table once
    more.

    Raises:
        GPT2JaxError: ``lm_head.weight`` is another matrix, which this model does not have.
    """
    stripped = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    head, table = stripped.pop("lm_head.weight", None), stripped.get("wte.weight")
    if head is not None and table is not None and not _equal(head, table):
        raise GPT2JaxError(f"{where}: lm_head.weight differs from wte.weight: should be tied to it, as in GPT-2")
    return stripped


def _equal(left: Tensor, right: Tensor) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    a, b = left.read(), right.read()
    if a.ctypes.data == b.ctypes.data and a.strides == b.strides:
        return True
    rows = 1024  # A few megabytes at a time; a row may hold NaN, so bytes are compared.
    return all(
        np.ascontiguousarray(a[at : at + rows]).tobytes() == np.ascontiguousarray(b[at : at + rows]).tobytes()
        for at in range(0, len(a), rows)
    )
