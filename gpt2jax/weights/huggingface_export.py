"""Writing Hugging Face's folder: what ``from_pretrained`` of transformers takes, and a model card."""

from pathlib import Path

from gpt2jax import __version__, parameters
from gpt2jax.weights import huggingface_config, vocabulary
from gpt2jax.weights.arrays import DType
from gpt2jax.weights.huggingface import PREFIX
from gpt2jax.weights.layout import HUGGINGFACE
from gpt2jax.weights.safetensors_file import write_safetensors
from gpt2jax.weights.weights import Weights, foreign_layer


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
        "README.md": _model_card(weights, dtype),
    }
    if encoding is not None:
        texts["tokenizer.json"] = vocabulary.tokenizer_json(encoding)
        texts["tokenizer_config.json"] = huggingface_config.tokenizer_config_json(config, encoding)
        if encoding.name != "characters":
            texts["vocab.json"] = vocabulary.encoder_json(encoding)
            texts["merges.txt"] = vocabulary.merges_text(encoding)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _model_card(weights: Weights, dtype: DType) -> str:
    config, encoding = weights.config, weights.origin.encoding
    names = {"gpt2": "GPT-2's 50,257 byte pairs", "bytes": "256 bytes and `<|endoftext|>`", "characters": "characters"}
    known = "not known" if encoding is None else names[encoding.name]
    rows = {
        "parameters": f"{parameters.count(config):,}",
        "layers, heads, width": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
        "context": f"{config.n_ctx:,} tokens",
        "vocabulary": f"{config.n_vocab:,} tokens ({known})",
        "stored as": dtype,
        "written from": f"{weights.origin.format} weights by gpt2jax {__version__}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, gpt2jax]
---

# A GPT-2 model

A decoder-only transformer with the architecture of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners").

| | |
|---|---|
{table}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

or `gpt2jax generate --model path/to/this/folder "Once upon a time"`.

## Training data, results, licence

Whoever publishes this model: say here what it was trained on, how it was evaluated, and under which licence it may
be used. The conversion knows none of these. OpenAI's own GPT-2 weights are under a modified MIT licence.

## Risks

A language model repeats what its training text holds, its biases included, states falsehoods as fluently as facts,
and does not know which is which. OpenAI advises against uses of GPT-2 that need generated text to be true, and
against deployment among people without a study of the biases that matter there.
"""
