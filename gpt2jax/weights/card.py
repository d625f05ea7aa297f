"""The model card that every exported model carries."""

from gpt2jax import __version__, parameters
from gpt2jax.risks import RISKS
from gpt2jax.weights.arrays import DType
from gpt2jax.weights.weights import Weights

_VOCABULARIES = {
    "gpt2": "GPT-2's 50,257 byte pairs",
    "bytes": "256 bytes and `<|endoftext|>`",
    "characters": "characters",
}

# How another program, or ours, takes each form.
_USES = {
    "orbax": "To generate with or to start training from, in gpt2jax.",
    "huggingface": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```""",
    "openai": "For OpenAI's program (openai/gpt-2), as one of the folders in its `models`.",
    "nanogpt": "For nanoGPT: `ckpt.pt` in its output folder, then `sample.py`.",
    "llmc": "For llm.c, as its model file.",
}


def card(weights: Weights, to: str, dtype: DType, name: str = "path/to/this/folder") -> str:
    """Markdown: what the model is, how it is used, what whoever publishes it should add, and its risks.

    Args:
        to: the form that it is in.
        name: of what holds it.
    """
    config, encoding = weights.config, weights.origin.encoding
    known = "not known" if encoding is None else _VOCABULARIES[encoding.name]
    rows = {
        "parameters": f"{parameters.count(config):,}",
        "layers, heads, width": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
        "context": f"{config.n_ctx:,} tokens",
        "vocabulary": f"{config.n_vocab:,} tokens ({known})",
        "stored as": dtype,
        "written from": f"{weights.origin.format} weights by gpt2jax {__version__}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# A GPT-2 model

A decoder-only transformer with the architecture of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners").

| | |
|---|---|
{table}

## Use

{_USES[to]}

or `gpt2jax generate --model {name} "Once upon a time"`.

## Training data, results, licence

Whoever publishes this model: say here what it was trained on, how it was evaluated, and under which licence it may
be used. The conversion knows none of these. OpenAI's own GPT-2 weights are under a modified MIT licence.

{RISKS}"""
