"""Several folders of shards as one corpus, each with a weight."""

import math
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.pipeline import holds_validation, open_split
from gpt2jax.data.shards import Split
from gpt2jax.data.windows import MixedWindows, TokenWindows
from gpt2jax.errors import GPT2JaxError


def parse(mixture: Sequence[str]) -> list[tuple[Path, float]]:
    """Folders and weights of ``PATH=WEIGHT``.

    Raises:
        GPT2JaxError: not of this form, or a weight that is none.
    """
    found = []
    for entry in mixture:
        path, _, text = entry.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not path or not 0 < weight < math.inf:
            raise GPT2JaxError(f"data.mixture: {entry!r}: should be PATH=WEIGHT, a folder and a number above 0")
        found.append((Path(path), weight))
    return found


def open_mixture(
    mixture: Sequence[str], split: Split, n_ctx: int, n_vocab: int, tokenizer_name: str = "auto"
) -> tuple[MixedWindows | None, tiktoken.Encoding, float | None]:
    """The windows of a split of all folders, their vocabulary, and their UTF-8 bytes per token, where all say it.

    Of the validation split, folders that hold nothing out are left out; None where all do.

    Raises:
        GPT2JaxError: as :func:`parse` and :func:`gpt2jax.data.pipeline.open_split` do, or documents with prompts, which
            do not mix with others, or vocabularies that differ.
    """
    parts, weights, encodings = list[TokenWindows](), list[float](), list[tiktoken.Encoding]()
    tokens, text_bytes = 0, 0.0
    for folder, weight in parse(mixture):
        absent = split == "validation" and not holds_validation(folder)
        windows, encoding, per_token = open_split(folder, "train" if absent else split, n_ctx, n_vocab, tokenizer_name)
        encodings.append(encoding)
        if not isinstance(windows, TokenWindows):
            raise GPT2JaxError(f"data.mixture: {folder}: documents with prompts: should be text alone")
        if tokenizers.to_spec(encoding) != tokenizers.to_spec(encodings[0]):
            same_name = encoding.name == encodings[0].name  # Of characters, with other characters.
            raise GPT2JaxError(
                f"data.mixture: {folder}: vocabulary {encoding.name}{' of its own' if same_name else ''}:"
                f" should be {encodings[0].name}, as of the first"
            )
        if not absent:
            parts.append(windows)
            weights.append(weight)
            tokens, text_bytes = tokens + windows.tokens, text_bytes + windows.tokens * (per_token or math.nan)
    per_token = text_bytes / tokens if tokens and text_bytes == text_bytes else None
    return MixedWindows(parts, weights) if parts else None, encodings[0], per_token
