"""llm.c's model files: a header of 256 integers, then every parameter, all its layers together (karpathy/llm.c,
train_gpt2.py, ``write_model``)."""

import math
from pathlib import Path

import numpy as np

from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import vocabulary
from gpt2jax.weights.arrays import FLOATS, DType, raw
from gpt2jax.weights.layout import LLMC
from gpt2jax.weights.mapped import MappedFile, Tensor, first_bytes
from gpt2jax.weights.weights import NO_CHECKSUM, ForeignWeights, Origin, Weights, foreign_layer

MAGIC = 20240326
HEADER_BYTES = 1024
VERSIONS: dict[int, DType] = {3: "float32", 5: "bfloat16"}


def is_llmc(path: Path) -> bool:
    return first_bytes(path, 4) == MAGIC.to_bytes(4, "little")


def read_llmc(path: Path) -> ForeignWeights:
    """The weights of a model file, version 3 (float32) or 5 (bfloat16).

    Raises:
        GPT2JaxError: cut short, too long, of another version, or its header contradicts itself.
    """
    file = MappedFile(path)
    header = np.frombuffer(file.bytes(0, HEADER_BYTES), "<i4")
    magic, version, n_ctx, n_vocab, n_layer, n_head, n_embd, rows = map(int, header[:8])
    if magic != MAGIC:
        raise GPT2JaxError(f"{path}: starts with {magic}: should start with llm.c's {MAGIC}")
    if version not in VERSIONS:
        raise GPT2JaxError(f"{path}: version {version}: should be 3 (float32) or 5 (bfloat16)")
    if rows < n_vocab:
        raise GPT2JaxError(f"{path}: {rows:,} rows for a vocabulary of {n_vocab:,}: damaged")
    try:
        config = ModelConfig(n_vocab=n_vocab, n_ctx=n_ctx, n_embd=n_embd, n_head=n_head, n_layer=n_layer)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: {error}") from None
    dtype = VERSIONS[version]
    size = HEADER_BYTES + FLOATS[dtype].itemsize * (parameters.count(config) + (rows - n_vocab) * n_embd)
    if file.size != size:
        raise GPT2JaxError(f"{path}: {file.size:,} bytes: should be {size:,}: cut short or damaged")
    tensors, at = {}, HEADER_BYTES
    for name, parameter, _ in LLMC.names(config):
        shape = LLMC.shape(parameter, config)
        tensors[name] = _tensor(file, at, dtype, shape)
        stored = (rows, *shape[1:]) if parameter.axes[0] == "vocab" else shape
        at += math.prod(stored) * FLOATS[dtype].itemsize
    encoding, note = vocabulary.assumed(n_vocab)
    return ForeignWeights(Origin("llmc", str(path), config, encoding, (NO_CHECKSUM,), note), LLMC, tensors, [file])


def _tensor(file: MappedFile, offset: int, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    return Tensor(dtype, shape, lambda: file.array(offset, dtype, shape))


def write_llmc(weights: Weights, path: Path, dtype: DType) -> None:
    """Write a model file, its vocabulary padded to a multiple of 128 (50,304 rows for GPT-2) with zeros.

    Raises:
        GPT2JaxError: a dtype that llm.c has no version for.
    """
    versions = {kind: number for number, kind in VERSIONS.items()}
    if dtype not in versions:
        raise GPT2JaxError(f"dtype: {dtype}: llm.c's format has {' and '.join(versions)}")
    config = weights.config
    header = np.zeros(256, "<i4")
    header[:8] = [
        MAGIC,
        versions[dtype],
        config.n_ctx,
        config.n_vocab,
        config.n_layer,
        config.n_head,
        config.n_embd,
        config.padded_vocab,
    ]
    with path.open("wb") as file:
        file.write(raw(header))
        for _, parameter, layer in LLMC.names(config):
            file.write(raw(foreign_layer(weights, LLMC, parameter, layer, dtype)))
            if parameter.axes[0] == "vocab":
                padding = parameters.shape(parameter, config)[0] - config.n_vocab
                file.write(raw(np.zeros((padding, config.n_embd), FLOATS[dtype])))
