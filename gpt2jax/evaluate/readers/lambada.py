"""LAMBADA: passages whose last word is to be guessed, in the two published forms and three readings."""

import dataclasses
from collections.abc import Callable

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.evaluate.readers.text import decode, fail, json_object, numbered, string


@dataclasses.dataclass(frozen=True)
class LambadaItem:
    """A passage, cut before its last word."""

    line: int
    """In the file, from 1."""
    context: str
    """Everything before the last space."""
    target: str
    """That space and what follows: the last word with its mark, or, in seven of the 5,153 passages of OpenAI's file,
    two words around a newline."""

    @property
    def text(self) -> str:
        return self.context + self.target

    @property
    def word(self) -> str:
        """The target without its space."""
        return self.target[1:]


def _straight(text: str) -> str:
    return text.replace("“", '"').replace("”", '"')


# What is done to a passage before it is cut. `openai` is what J. Wu says was done for the paper (openai/gpt-2 #131);
# lm-evaluation-harness takes the text as it is.
READINGS: dict[str, Callable[[str], str]] = {
    "openai": lambda text: "\n" + _straight(text).strip(),
    "straight-quotes": lambda text: _straight(text),
    "as-is": lambda text: text,
}


def read_lambada(data: bytes, where: str, reading: str = "openai") -> list[LambadaItem]:
    """The items of OpenAI's ``lambada_test.jsonl``: one object with a ``text`` a line.

    Raises:
        GPT2JaxError: unknown reading; empty, not UTF-8, not such lines, or a passage without context or last word.
    """
    prepare = _reading(reading)
    items = []
    for number, line in numbered(decode(data, where)):
        text = string(json_object(line, where, number), "text", where, number)
        items.append(_cut(prepare(text), where, number))
    return items


def read_lambada_plain(data: bytes, where: str, reading: str = "as-is") -> list[LambadaItem]:
    """The items of the authors' ``lambada_test_plain_text.txt``: a passage a line, lower-cased and tokenised.

    Raises:
        GPT2JaxError: unknown reading; empty, not UTF-8, or a passage without context or last word.
    """
    prepare = _reading(reading)
    return [_cut(prepare(line), where, number) for number, line in numbered(decode(data, where))]


def _reading(name: str) -> Callable[[str], str]:
    if name not in READINGS:
        raise GPT2JaxError(f"lambada reading: {name!r}: unknown ({nearest(name, READINGS)})")
    return READINGS[name]


def _cut(text: str, where: str, number: int) -> LambadaItem:
    context, space, word = text.rpartition(" ")
    if not space or not context.strip():
        fail(where, number, "no context before the last word")
    if not word.strip():
        fail(where, number, "the target is empty: nothing follows the last space")
    return LambadaItem(number, context, " " + word)
