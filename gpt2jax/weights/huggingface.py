"""Hugging Face's folder: config.json and the weights as safetensors, torch's pickle or Flax's msgpack."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import read_json
from gpt2jax.weights import huggingface_config, vocabulary
from gpt2jax.weights.layout import FLAX, HUGGINGFACE, Layout
from gpt2jax.weights.mapped import MappedFile, Tensor
from gpt2jax.weights.msgpack_file import read_msgpack
from gpt2jax.weights.safetensors_file import read_safetensors
from gpt2jax.weights.torch_file import TorchFile
from gpt2jax.weights.weights import NO_CHECKSUM, ZIP_CHECKSUM, ForeignWeights, Origin, check_tensors

Tensors = tuple[dict[str, Tensor], list[MappedFile]]

PREFIX = "transformer."
# Buffers that older versions stored beside the weights: the causal mask, and the score of what it masks.
_BUFFERS = (".attn.bias", ".attn.masked_bias")


# transformers' own names, in the order of preference.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)


def is_huggingface(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_huggingface(folder: Path, file: Path | None = None) -> ForeignWeights:
    """The weights of a folder; of several forms in it the first of safetensors, torch's and Flax's.

    Args:
        file: of several files in the folder, this one.

    Raises:
        GPT2JaxError: a file is missing or damaged, config.json asks for what this model is not, or tensors are not
            those of the model.
    """
    config = huggingface_config.read(folder / "config.json")
    path, (tensors, files), checksums = _find(folder, file)
    layout = FLAX if path.suffix == ".msgpack" else HUGGINGFACE
    if layout is FLAX:
        tensors = {name.removeprefix("transformer/"): tensor for name, tensor in tensors.items()}
        check_tensors(tensors, layout, config, str(path))
    else:
        tensors = checked(tensors, layout, config, str(path))
    encoding, note = vocabulary.read(folder, config.n_vocab)
    notes = (ZIP_CHECKSUM if checksums else NO_CHECKSUM,)
    return ForeignWeights(Origin("huggingface", str(folder), config, encoding, notes, note), layout, tensors, files)


def _find(folder: Path, file: Path | None) -> tuple[Path, Tensors, bool]:
    """The file that names the weights, the weights, and whether their checksums are compared."""
    if file:
        tensors, checksums = SUFFIXES[_suffix(file)](file)
        return file, tensors, checksums
    for name in NAMES:
        if (folder / name).is_file():
            return _find(folder, folder / name)
    raise GPT2JaxError(f"{folder}: no weights: should hold one of {', '.join(NAMES)}")


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
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise GPT2JaxError(f"{index}: has no weight_map: cannot be read as an index")
    names = sorted({str(place) for place in places.values()})
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


def checked(tensors: dict[str, Tensor], layout: Layout, config: ModelConfig, where: str) -> dict[str, Tensor]:
    """The tensors of GPT2Model from those of any GPT-2 of Hugging Face's or nanoGPT's.

    The prefix ``transformer.`` goes, so do buffers, and so does ``lm_head.weight`` when it is the token table once
    more.

    Raises:
        GPT2JaxError: others than the model's, or an ``lm_head.weight`` that is another matrix.
    """
    stripped = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    head = stripped.pop("lm_head.weight", None)
    check_tensors(stripped, layout, config, where)
    if head is not None and not _equal(head, stripped["wte.weight"]):
        raise GPT2JaxError(f"{where}: lm_head.weight differs from wte.weight: should be tied to it, as in GPT-2")
    return stripped


def _equal(head: Tensor, table: Tensor) -> bool:
    if (head.dtype, head.shape) != (table.dtype, table.shape):
        return False
    a, b = head.read(), table.read()
    if a.ctypes.data == b.ctypes.data and a.strides == b.strides:
        return True
    rows = 1024  # A few megabytes at a time; a row may hold NaN, so bytes are compared.
    return all(
        np.ascontiguousarray(a[at : at + rows]).tobytes() == np.ascontiguousarray(b[at : at + rows]).tobytes()
        for at in range(0, len(a), rows)
    )


def _suffix(path: Path) -> str:
    """What the name of a file of weights ends in, or nothing."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def is_weights_file(path: Path) -> bool:
    """Whether ``path`` is named as one of Hugging Face's files of weights is."""
    return bool(_suffix(path))


# Readers by what a file's name ends in, the longest ending first.
SUFFIXES: dict[str, Callable[[Path], tuple[Tensors, bool]]] = {
    ".safetensors.index.json": lambda path: _sharded(path, _safetensors),
    ".bin.index.json": lambda path: _sharded(path, _torch),
    ".safetensors": _safetensors,
    ".bin": _torch,
    ".msgpack": _msgpack,
}
