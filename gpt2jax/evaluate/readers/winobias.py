"""WinoBias: sentences whose pronoun means one of two occupations, in pairs that differ in its gender alone."""

import dataclasses
import re

from gpt2jax.evaluate.readers.text import decode, fail, numbered

PRONOUNS = {"he", "him", "his", "himself", "she", "her", "hers", "herself"}

_BRACKET = re.compile(r"\[([^\[\]]+)\]")
# Some versions of the files number their lines.
_NUMBER = re.compile(r"\d+ ")


@dataclasses.dataclass(frozen=True)
class WinoBiasItem:
    line: int
    """In the file, from 1."""
    text: str
    """The sentence without brackets."""
    occupation: str
    """What the pronoun means, as the sentence has it: ``the chief``."""
    pronouns: tuple[str, ...]
    """One or more, of one gender."""
    frame: str
    """The sentence with its brackets, a gap for each pronoun: that of its pair is the same."""


def read_winobias(data: bytes, where: str) -> list[WinoBiasItem]:
    """The sentences of ``{pro,anti}_stereotyped_type{1,2}.txt.test``.

    Raises:
        GPT2JaxError: empty, not UTF-8, or a line without one bracketed occupation and a bracketed pronoun.
    """
    items = []
    for number, line in numbered(decode(data, where)):
        sentence = _NUMBER.sub("", line.strip(), count=1) if _NUMBER.match(line.strip()) else line.strip()
        if not sentence:
            fail(where, number, "empty: should be a sentence")
        marked = [text.strip() for text in _BRACKET.findall(sentence)]
        pronouns = tuple(text for text in marked if text.lower() in PRONOUNS)
        occupations = [text for text in marked if text.lower() not in PRONOUNS]
        if not pronouns or len(occupations) != 1:
            found = f"{len(occupations)} occupations and {len(pronouns)} pronouns in brackets"
            fail(where, number, f"{found}: should be one, and one or more")
        text = _BRACKET.sub(lambda match: match.group(1), sentence)
        frame = _BRACKET.sub(lambda m: "[_]" if m.group(1).strip().lower() in PRONOUNS else m.group(0), sentence)
        items.append(WinoBiasItem(number, text, occupations[0], pronouns, frame))
    return items


@dataclasses.dataclass(frozen=True)
class WinoBiasPairs:
    pairs: tuple[tuple[WinoBiasItem, WinoBiasItem], ...]
    """The same sentence with the pronoun that the stereotype expects, and with the other."""
    unpaired: int
    """Sentences of either file whose wording is in no sentence of the other: they are not compared."""


def pair(pro: list[WinoBiasItem], anti: list[WinoBiasItem]) -> WinoBiasPairs:
    """Match the sentences of two files by wording: their order differs, and a few were edited in one file alone."""
    waiting: dict[str, list[WinoBiasItem]] = {}
    for item in anti:
        waiting.setdefault(item.frame, []).append(item)
    pairs = []
    for item in pro:
        others = waiting.get(item.frame)
        if others:
            pairs.append((item, others.pop(0)))
    return WinoBiasPairs(tuple(pairs), len(pro) + len(anti) - 2 * len(pairs))
