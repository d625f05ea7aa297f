"""nanoGPT's checkpoints: ckpt.pt, and meta.pkl for a vocabulary of characters (karpathy/nanoGPT, train.py)."""

from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from gpt2jax import tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import pickled, vocabulary
from gpt2jax.weights.arrays import DType
from gpt2jax.weights.huggingface import PREFIX, checked
from gpt2jax.weights.layout import NANOGPT
from gpt2jax.weights.mapped import Tensor
from gpt2jax.weights.torch_file import TorchFile, storage_of, write_torch_file
from gpt2jax.weights.weights import NO_CHECKSUM, ZIP_CHECKSUM, ForeignWeights, Origin, Weights, foreign_layer

CHECKPOINT = "ckpt.pt"
CHARACTERS = "meta.pkl"

# torch.compile wraps a module, and its state's names with it.
_COMPILED = "_orig_mod."
# GPT-2's vocabulary as nanoGPT trains it, padded "up to nearest multiple of 64 for efficiency".
_PADDED_VOCAB = 50304

GELU = (
    "nanoGPT computes GELU by the error function, this model by tanh as GPT-2 was trained: the same weights give"
    " slightly different logits in the two"
)

_SIZES = {"n_vocab": "vocab_size", "n_ctx": "block_size", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}


def read_nanogpt(path: Path) -> ForeignWeights:
    """The weights of a ckpt.pt.

    A model without biases (``bias=False``) gets biases of 0, which compute the same. A vocabulary of 50,304 is
    GPT-2's, padded: its last 47 rows, which stand for no token, are left out.

    Raises:
        GPT2JaxError: damaged, no checkpoint of nanoGPT's, or tensors are not those of the model it describes.
    """
    file = TorchFile(path)
    try:
        arguments, state = file.value["model_args"], file.value["model"]
        sizes = {ours: arguments[theirs] for ours, theirs in _SIZES.items()}
        bias, dropout = bool(arguments["bias"]), float(arguments["dropout"])
        named = {str(name).removeprefix(_COMPILED): value for name, value in state.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GPT2JaxError(f"{path}: not a checkpoint of nanoGPT's ({type(error).__name__}: {error})") from None
    try:
        config = ModelConfig(dropout=dropout, **sizes)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: model_args: {error}") from None
    notes = [ZIP_CHECKSUM if file.checksums else NO_CHECKSUM, GELU]
    tensors = file.tensors(named)
    if not bias:
        notes.append("it has no biases: they are 0")
        tensors |= _zero_biases(config, tensors, path)
    tensors = checked(tensors, NANOGPT, config, str(path))
    if config.n_vocab == _PADDED_VOCAB:
        notes.append(f"of {_PADDED_VOCAB:,} rows of the vocabulary, 47 stand for no token: they are left out")
        config = ModelConfig(dropout=dropout, **sizes | {"n_vocab": 50257})
        table = tensors["wte.weight"]
        tensors["wte.weight"] = Tensor(table.dtype, (50257, *table.shape[1:]), lambda: table.read()[:50257])
    encoding, note = _vocabulary(path.parent / CHARACTERS, config.n_vocab)
    origin = Origin("nanogpt", str(path), config, encoding, tuple(notes), note)
    return ForeignWeights(origin, NANOGPT, tensors, [file.file])


def _zero_biases(config: ModelConfig, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    there = [name for name in tensors if name.endswith(".bias") and not name.endswith(".attn.bias")]
    if there:
        raise GPT2JaxError(f"{path}: model_args: bias: False, but it holds {', '.join(there)}")

    def zeros(shape: tuple[int, ...]) -> Tensor:
        return Tensor("float32", shape, lambda: np.zeros(shape, np.float32))

    return {
        name: zeros(NANOGPT.shape(parameter, config))
        for name, parameter, _ in NANOGPT.names(config)
        if parameter.path.endswith("bias")
    }


def _vocabulary(meta: Path, n_vocab: int) -> tuple[tiktoken.Encoding | None, str | None]:
    if not meta.is_file():
        return vocabulary.assumed(n_vocab)
    with meta.open("rb") as file:
        value = pickled.load(file, str(meta))
    try:
        alphabet = "".join(value["itos"][token] for token in range(n_vocab))
    except (KeyError, TypeError, IndexError) as error:
        raise GPT2JaxError(f"{meta}: not a vocabulary of {n_vocab:,} characters ({error})") from None
    return tokenizer.characters(alphabet), None


def write_nanogpt(weights: Weights, folder: Path, dtype: DType) -> None:
    """Write ckpt.pt, which nanoGPT's sample.py loads, and for a vocabulary of characters meta.pkl.

    It holds no optimizer: nanoGPT's train.py can fine-tune from it only after a start of its own.
    """
    config, encoding = weights.config, weights.origin.encoding
    rows = [(str(key), *row) for key, row in enumerate(NANOGPT.names(config))]
    state: dict[str, Any] = {
        PREFIX + name: storage_of(key, dtype, NANOGPT.shape(parameter, config)) for key, name, parameter, _ in rows
    }
    state["lm_head.weight"] = state["transformer.wte.weight"]  # One storage, two names, as torch has it.
    arguments = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    value = {
        "model": state,
        "model_args": arguments | {"bias": True, "dropout": config.dropout},
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {"dataset": "" if encoding is None else encoding.name},
    }

    arrays = ((key, foreign_layer(weights, NANOGPT, parameter, layer, dtype)) for key, _, parameter, layer in rows)
    write_torch_file(folder / CHECKPOINT, value, arrays)
    if encoding is not None and encoding.name == "characters":
        alphabet = [encoding.decode([token]) for token in range(config.n_vocab)]
        meta = {
            "vocab_size": config.n_vocab,
            "itos": dict(enumerate(alphabet)),
            "stoi": {character: token for token, character in enumerate(alphabet)},
        }
        (folder / CHARACTERS).write_bytes(pickled.dump(meta))
