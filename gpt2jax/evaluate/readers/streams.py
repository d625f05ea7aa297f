"""Texts that are scored as one stream: WikiText, PTB, 1BW by lines; enwik8 and text8 by their last bytes."""

import re

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.readers.text import decode, fail, numbered

# enwik8 and text8 are cut 90, 5 and 5 million: the last part is the test set.
TAIL_BYTES = 5_000_000

_NOT_TEXT8 = re.compile(rb"[^a-z ]")


def read_lines(data: bytes, where: str) -> list[str]:
    """The lines as they are in the file, each with its ``\\n``; they join to the whole text.

    Lines end at ``\\n`` alone: Unicode's other line ends are characters.

    Raises:
        GPT2JaxError: empty, not UTF-8, or lines that end in ``\\r\\n``.
    """
    text = decode(data, where)
    if "\r\n" in text:
        line = text.count("\n", 0, text.index("\r\n")) + 1
        fail(where, line, "ends in \\r\\n: should end in \\n, as the original does: each \\r would be scored")
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]


def read_sentences(data: bytes, where: str) -> list[str]:
    """The sentences of the One Billion Word Benchmark, one a line, without newlines.

    Raises:
        GPT2JaxError: empty, not UTF-8, or a line without words.
    """
    sentences = []
    for number, line in numbered(decode(data, where)):
        if not line.strip():
            fail(where, number, "empty: should be a sentence")
        sentences.append(line)
    return sentences


def read_tail(data: bytes, where: str, size: int = TAIL_BYTES) -> bytes:
    """The last ``size`` bytes. The cut may fall inside a character: they are to be tokenized as bytes.

    Raises:
        GPT2JaxError: there are fewer.
    """
    if len(data) < size:
        raise GPT2JaxError(f"{where}: {len(data):,} bytes: should be {size:,} at least, of which the last are scored")
    return data[-size:]


def read_text8(data: bytes, where: str, size: int = TAIL_BYTES) -> str:
    """The last ``size`` characters of text8: small letters and spaces.

    Raises:
        GPT2JaxError: there are fewer, or other characters.
    """
    tail = read_tail(data, where, size)
    other = _NOT_TEXT8.search(tail)
    if other:
        place = len(data) - size + other.start()
        raise GPT2JaxError(f"{where}: byte {place:,}: {other.group()!r}: should be a letter from a to z or a space")
    return tail.decode("ascii")
