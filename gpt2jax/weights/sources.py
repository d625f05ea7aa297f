"""Any GPT-2 by its path or its name: what it is, is found out here."""

from pathlib import Path
from typing import NamedTuple

import jax
import tiktoken

from gpt2jax.config import MeshConfig, ModelConfig, from_mapping
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.presets import ALIASES, PRESETS
from gpt2jax.weights.download import cached, download
from gpt2jax.weights.huggingface import is_huggingface, is_weights_file, read_huggingface
from gpt2jax.weights.llmc import is_llmc, read_llmc
from gpt2jax.weights.nanogpt import CHECKPOINT, read_nanogpt
from gpt2jax.weights.openai import is_openai, read_openai
from gpt2jax.weights.released import resolve
from gpt2jax.weights.torch_file import is_torch_file
from gpt2jax.weights.weights import Weights, load_params


class Loaded(NamedTuple):
    """A model in memory."""

    params: Params
    config: ModelConfig
    tokenizer: tiktoken.Encoding | None
    """None where the source does not say which vocabulary its tokens are of."""


def load(source: str | Path, place: Partition | None = None) -> Loaded:
    """The model that ``source`` means, its parameters in float32.

    Args:
        source: what :func:`open_weights` takes.
        place: the mesh, each device of which gets its shards alone; by default the first device.

    Raises:
        GPT2JaxError: nothing there is a GPT-2, or it is damaged.
    """
    weights = open_weights(source)
    place = place or Partition(make_mesh(MeshConfig(), jax.local_devices()[:1]))
    return Loaded(load_params(weights, place), weights.config, weights.origin.encoding)


def open_weights(source: str | Path) -> Weights:
    """The weights that ``source`` means; no tensor is read yet.

    ``source`` is a run's folder or a checkpoint of ours; OpenAI's or Hugging Face's folder, or a file of weights in
    it; nanoGPT's folder or its ckpt.pt; llm.c's .bin; or the name of a released model (``gpt2-medium``, ``355M``,
    ``openai-community/gpt2``), which is downloaded when the cache lacks it. What exists as a path is not a name.

    Raises:
        GPT2JaxError: nothing there is a GPT-2, or it is damaged.
    """
    if not str(source):
        raise GPT2JaxError("model: '': should be a path or a name")
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    if resolve(str(source)):
        return _open_folder(cached(str(source)) or download(str(source)))
    raise GPT2JaxError(
        f"{source}: no such file or folder, and no model's name ({nearest(str(source), [*PRESETS, *ALIASES])})"
    )


def config_of(source: str | Path) -> ModelConfig:
    """The model that ``source`` means (:func:`open_weights`); that of a released one is known without its files.

    Raises:
        GPT2JaxError: as :func:`open_weights` does.
    """
    released = None if Path(source).exists() else resolve(str(source))
    return from_mapping({"model": released[0]}, str(source)).model if released else open_weights(source).config


def _open_folder(folder: Path) -> Weights:
    if is_openai(folder):
        return read_openai(folder)
    if (folder / CHECKPOINT).is_file():
        return read_nanogpt(folder / CHECKPOINT)
    if is_huggingface(folder):
        return read_huggingface(folder)
    # Orbax takes a fifth of a second to import: for its own files only.
    from gpt2jax import checkpoint
    from gpt2jax.weights.orbax import StoredWeights

    if checkpoint.holds_one(folder) or (folder / "checkpoints").is_dir():
        return StoredWeights(folder)
    raise GPT2JaxError(
        f"{folder}: holds no GPT-2: should have checkpoints of a run, OpenAI's hparams.json, Hugging Face's config.json"
        f" or nanoGPT's {CHECKPOINT}"
    )


def _open_file(path: Path) -> Weights:
    if is_llmc(path):
        return read_llmc(path)
    if path.suffix == ".pt" and is_torch_file(path):
        return read_nanogpt(path)
    # What model it is, is said beside it.
    if path.suffix == ".index" and is_openai(path.parent):
        return read_openai(path.parent, path)
    if is_weights_file(path) and is_huggingface(path.parent):
        return read_huggingface(path.parent, path)
    raise GPT2JaxError(
        f"{path}: not a file of GPT-2 weights: should be llm.c's .bin, nanoGPT's .pt, Hugging Face's beside a"
        " config.json, or OpenAI's .index beside a hparams.json"
    )
