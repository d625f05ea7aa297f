"""`gpt2jax features`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError

HELP = """Save what a model makes of texts: its states at a layer, as arrays.

INPUT is a .jsonl file (strings, or objects with a "text") or a .txt file (a text a line). OUTPUT is a NumPy archive:
`features` [texts, width], or without pooling `features` [all tokens, width] with `lengths` [texts].

examples:
  gpt2jax features texts.jsonl --model gpt2-medium --output features.npz
  gpt2jax features texts.txt --model runs/quickstart --layer 3 --pool last --output features.npz"""


@dataclasses.dataclass(frozen=True)
class FeaturesArgs:
    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """Texts: a .jsonl or a .txt file."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """A run, a checkpoint, another program's folder or file, or the name of a released model."""
    output: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """The .npz file to write; made new."""
    layer: int = -1
    """0 is the embedding, l the output of block l, -1 the last one after the final layer norm."""
    pool: Literal["mean", "last", "none"] = "mean"
    """One vector a text, from all positions or the last one; or one for each token."""
    text_key: str = "text"
    """Where a .jsonl line has its text."""
    batch_size: int = 16
    """Texts computed at once."""
    truncate: bool = False
    """Cut texts to the context instead of refusing longer ones."""


def run(args: list[str]) -> int:
    given = parse(FeaturesArgs, args, "features", HELP)
    output = Path(given.output)
    if output.suffix != ".npz":
        raise GPT2JaxError(f"output: {given.output}: should end in .npz")
    if output.exists():
        raise GPT2JaxError(f"{output}: exists; give a new name")
    start()
    import numpy as np

    import gpt2jax
    from gpt2jax.files import new_file
    from gpt2jax.generate.features import features as compute
    from gpt2jax.generate.jobs import read_prompts
    from gpt2jax.tokenizer import encode_prompt

    texts = read_prompts(Path(given.input), given.text_key)
    if not texts:
        raise GPT2JaxError(f"{given.input}: no texts in it")
    params, config, encoding = gpt2jax.load(given.model)
    if encoding is None:
        raise GPT2JaxError(f"{given.model}: has no vocabulary to read text with")
    tokens = [encode_prompt(encoding, text) for text in texts]
    if given.truncate:
        tokens = [some[: config.n_ctx] for some in tokens]
    elif max(map(len, tokens)) > config.n_ctx:
        longest = max(range(len(tokens)), key=lambda number: len(tokens[number]))
        raise GPT2JaxError(
            f"text {longest + 1}: {len(tokens[longest])} tokens: should be at most the model's context,"
            f" {config.n_ctx}; --truncate cuts it"
        )
    found = compute(params, tokens, config, layer=given.layer, pool=given.pool, batch_size=given.batch_size)
    arrays = {"features": np.concatenate(found) if given.pool == "none" else np.stack(found)}
    if given.pool == "none":
        arrays["lengths"] = np.array([len(some) for some in found])
    with new_file(output) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    print(f"wrote {output}: {len(texts):,} texts, {arrays['features'].shape}")
    return 0
