"""The filter of LAMBADA's accuracy: words that a sentence hardly ends with."""

import functools
import importlib.resources

import tiktoken

from gpt2jax.tokenizer import encode_corpus


@functools.cache
def stop_words() -> tuple[str, ...]:
    """The list in stop_words.txt, whose head says where it is from."""
    text = importlib.resources.files("gpt2jax.evaluate").joinpath("stop_words.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def stop_tokens(encoding: tiktoken.Encoding) -> tuple[int, ...]:
    """The tokens that are a space and a stop word; a word of several tokens has none."""
    some = (encode_corpus(encoding, f" {word}") for word in stop_words())
    return tuple(sorted({int(tokens[0]) for tokens in some if len(tokens) == 1}))
