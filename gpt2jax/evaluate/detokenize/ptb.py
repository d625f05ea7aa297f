"""Mikolov's Penn Treebank: lower case, no punctuation, a space around each line, ``N`` for numbers.

Clitics go to their words (``was n't``, ``dealer 's``), the genitive's apostrophe to its plural (``traders '``), and
``$`` and ``#`` to their numbers. ``N`` and ``<unk>`` stay in :data:`PTB`; what they stood for cannot be known. The
variants write ``N`` as ``1`` and ``<unk>`` as ``?``, which comes back as long as a line has no ``1`` or ``?`` of its
own; one that has is read with that word as it is, after a second space.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from gpt2jax.evaluate.detokenize.words import Joined, WordDetokenizer

_CLITIC = r"n't|'(?:s|re|ve|ll|m|d)"


def _joins(words: Sequence[str], number: str, unknown: str) -> list[Joined | None]:
    joined: list[Joined | None] = []
    for before, word, after in zip(["", *words[:-1]], words, [*words[1:], ""], strict=True):
        spelled = {"N": number, "<unk>": unknown}.get(word, word)
        genitive = word == "'" and before.endswith(("s", "x", "z", "<unk>"))
        left = before != "" and (genitive or re.fullmatch(_CLITIC, word) is not None)
        right = word.endswith(("$", "#")) and after in ("N", "<unk>")
        joined.append(Joined(left, right, spelled) if left or right or spelled != word else None)
    return joined


def _cut(piece: str, following: str, number: str, unknown: str) -> Iterator[str]:
    amount = f"{re.escape(number)}|{re.escape(unknown)}"
    marks = re.sub(rf"(?<=[$#])(?={amount})", " ", piece)
    clitics = re.sub(rf"(?<=\S)(?=(?:{_CLITIC})+$)", " ", marks)
    for word in re.sub(r"(?<=[^\s'])'$", " '", clitics).split(" "):
        yield {number: "N", unknown: "<unk>"}.get(word, word)


def _ptb(name: str, number: str, unknown: str) -> WordDetokenizer:
    joins = partial(_joins, number=number, unknown=unknown)
    return WordDetokenizer(name, joins, partial(_cut, number=number, unknown=unknown), padded=True)


PTB = _ptb("ptb", "N", "<unk>")
PTB_ONE = _ptb("ptb-one", "1", "<unk>")
PTB_ONE_QUERY = _ptb("ptb-one-query", "1", "?")
