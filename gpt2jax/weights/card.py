"""The model card that every exported model carries."""

import re
from pathlib import Path

from gpt2jax import __version__, parameters
from gpt2jax.config import ModelConfig
from gpt2jax.paper import paper
from gpt2jax.presets import PRESETS
from gpt2jax.risks import READING, RISKS, USES
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
    """Markdown: what the model is, how and for what it is used, how it was trained and what that took, as the report of
    its run says it, the paper's figures for OpenAI's models of its sizes, and its risks.

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

## How to load it

{_USES[to]}

or `gpt2jax generate --model {name} "Once upon a time"`.

{USES}
{_training(Path(weights.origin.where))}
{_paper(config)}{RISKS}
{READING}"""


def _training(source: Path) -> str:
    """The report of the run that made the weights, if they are a run's; else what somebody should say."""
    # The weights lie in the run's folder, or below it in checkpoints/STEP or export/FORM.
    folders = [folder for folder in (source, *source.parents[:2]) if (folder / "checkpoints").is_dir()]
    found = [folder / "report.md" for folder in folders if (folder / "report.md").is_file()]
    licence = "The licence is for whoever publishes the model to choose, as far as its data allows."
    if not found:
        return f"""## Training, evaluation, licence

Whoever publishes this model: say here what it was trained on, how it was evaluated, and what that took; the conversion
knows none of these. {licence} OpenAI's own GPT-2 weights are under a modified MIT licence.
"""
    report = found[0].read_text(encoding="utf-8").partition(RISKS.partition("\n")[0])[0]
    told = re.sub(r"^#+ ", "### ", report.partition("\n")[2].strip(), flags=re.M)
    return f"""## Training, evaluation, environmental impact

As the report of the run says it, whose figures are those of the whole run.

{told}

{licence}
"""


def _paper(config: ModelConfig) -> str:
    """The paper's figures, of a model that has a released one's sizes."""
    own = (config.n_embd, config.n_head, config.n_layer, config.n_vocab, config.n_ctx)
    released = {(*sizes.values(), ModelConfig.n_vocab, ModelConfig.n_ctx): name for name, sizes in PRESETS.items()}
    name = released.get(own)
    if name is None:
        return ""
    columns, figures = paper().columns, paper().figures[name]
    rows = "\n".join(f"| {column.title} | {column.metric} | {figures[column.name]:g} |" for column in columns)
    return f"""## The paper's figures

Zero-shot figures of OpenAI's {name} (Radford et al. 2019, Table 3), by protocols that were not published. They are
this model's only if its weights are OpenAI's.

| | | |
|---|---|---|
{rows}

"""
