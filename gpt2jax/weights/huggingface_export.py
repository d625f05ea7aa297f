"""Writing Hugging Face's folder: what ``from_pretrained`` of transformers takes, and a model card."""

from pathlib import Path

from gpt2jax.weights import huggingface_config, vocabulary
from gpt2jax.weights.arrays import DType
from gpt2jax.weights.card import card
from gpt2jax.weights.huggingface import PREFIX
from gpt2jax.weights.layout import HUGGINGFACE
from gpt2jax.weights.safetensors_file import write_safetensors
from gpt2jax.weights.weights import Weights, foreign_layer

# What the Hub reads of a card.
_HUB = """---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, gpt2jax]
---

"""


def write_huggingface(weights: Weights, folder: Path, dtype: DType) -> None:
    """Write model.safetensors, config.json, generation_config.json, the tokenizer's files and README.md."""
    config, encoding = weights.config, weights.origin.encoding
    rows = list(HUGGINGFACE.names(config))
    shapes = {PREFIX + name: HUGGINGFACE.shape(parameter, config) for name, parameter, _ in rows}

    arrays = (foreign_layer(weights, HUGGINGFACE, parameter, layer, dtype) for _, parameter, layer in rows)
    write_safetensors(folder / "model.safetensors", shapes, dtype, arrays)
    texts = {
        "config.json": huggingface_config.config_json(config, encoding, dtype),
        "generation_config.json": huggingface_config.generation_config_json(encoding),
        "README.md": _HUB + card(weights, "huggingface", dtype),
    }
    if encoding is not None:
        texts["tokenizer.json"] = vocabulary.tokenizer_json(encoding)
        texts["tokenizer_config.json"] = huggingface_config.tokenizer_config_json(config, encoding)
        if encoding.name != "characters":
            texts["vocab.json"] = vocabulary.encoder_json(encoding)
            texts["merges.txt"] = vocabulary.merges_text(encoding)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
