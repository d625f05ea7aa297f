"""The filter of LAMBADA's accuracy: words that a sentence hardly ends with."""

import contextlib
import functools
import importlib.resources

import tiktoken

from gpt2jax.errors import GPT2JaxError
from gpt2jax.tokenizer import encode_corpus


@functools.cache
def stop_words() -> tuple[str, ...]:
    """The list in stop_words.txt, whose head says where it is from."""
    text = importlib.resources.files("gpt2jax.evaluate").joinpath("stop_words.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def stop_tokens(encoding: tiktoken.Encoding) -> tuple[int, ...]:
    """The tokens that are a space and a stop word; a word of several tokens has none, nor has one that the vocabulary
    cannot spell."""
    found = set()
    for word in stop_words():
        with contextlib.suppress(GPT2JaxError):
            tokens = encode_corpus(encoding, f" {word}")
            found |= {int(tokens[0])} if len(tokens) == 1 else set()
    return tuple(sorted(found))
