"""OpenAI's own folder: a TensorFlow checkpoint, hparams.json, encoder.json and vocab.bpe (openai/gpt-2)."""

import json
import re
from pathlib import Path

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import read_json
from gpt2jax.weights import vocabulary
from gpt2jax.weights.arrays import DType
from gpt2jax.weights.bundle import read_bundle, write_bundle
from gpt2jax.weights.layout import OPENAI
from gpt2jax.weights.weights import ForeignWeights, Origin, Weights, check_tensors, foreign_layer

HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")


def is_openai(folder: Path) -> bool:
    return (folder / "hparams.json").is_file()


def read_openai(folder: Path, index: Path | None = None) -> ForeignWeights:
    """The weights of a folder; a tensor's checksum is compared when it is read.

    Args:
        index: of several checkpoints in the folder, this one.

    Raises:
        GPT2JaxError: a file is missing or damaged, or tensors are not those of the model that hparams.json names.
    """
    config = _read_hparams(folder / "hparams.json")
    prefix = index.with_suffix("") if index else _prefix(folder)
    tensors, files = read_bundle(prefix)
    check_tensors(tensors, OPENAI, config, f"{prefix}.index")
    encoding, note = vocabulary.read(folder, config.n_vocab)
    notes = ("the checksums (CRC-32C) of all tensors are compared",)
    return ForeignWeights(Origin("openai", str(folder), config, encoding, notes, note), OPENAI, tensors, files)


def _read_hparams(path: Path) -> ModelConfig:
    values = read_json(path)
    missing = [name for name in HPARAMS if name not in values]
    if missing:
        raise GPT2JaxError(f"{path}: {', '.join(missing)}: missing")
    sizes = {name: values[name] for name in HPARAMS}
    try:
        return ModelConfig(**sizes)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: {error}") from None


def _prefix(folder: Path) -> Path:
    """The newest checkpoint in a folder: the one that ``checkpoint`` names, else the only one there is."""
    state = folder / "checkpoint"
    if state.is_file():
        named = re.search(rb'^model_checkpoint_path: "([^"\0]+)"', state.read_bytes(), re.MULTILINE)
        if named is None:
            raise GPT2JaxError(f"{state}: names no model_checkpoint_path: damaged")
        # TensorFlow may have noted a path of the machine that wrote it.
        return folder / re.split(r"[/\\]", named[1].decode(errors="replace"))[-1]
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        raise GPT2JaxError(f"{folder}: no file named checkpoint, and {len(found)} .index files: should be one")
    return found[0].with_suffix("")


def hparams_json(config: ModelConfig) -> str:
    """The text of hparams.json."""
    return json.dumps({name: getattr(config, name) for name in HPARAMS}, indent=2) + "\n"


def write_openai(weights: Weights, folder: Path, dtype: DType) -> None:
    """Write the folder that OpenAI's program and ``tf.train.load_checkpoint`` read."""
    config, encoding = weights.config, weights.origin.encoding

    rows = list(OPENAI.names(config))
    shapes = {name: OPENAI.shape(parameter, config) for name, parameter, _ in rows}
    arrays = ((name, foreign_layer(weights, OPENAI, parameter, layer, dtype)) for name, parameter, layer in rows)
    write_bundle(folder / "model.ckpt", shapes, dtype, arrays)
    state = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    (folder / "checkpoint").write_text(state, encoding="utf-8")
    (folder / "hparams.json").write_text(hparams_json(config), encoding="utf-8")
    if encoding is not None and encoding.name != "characters":  # Theirs is byte pairs alone.
        (folder / "encoder.json").write_text(vocabulary.encoder_json(encoding), encoding="utf-8")
        (folder / "vocab.bpe").write_text(vocabulary.merges_text(encoding), encoding="utf-8")
