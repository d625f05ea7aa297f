"""The Children's Book Test's spelling: the Penn Treebank's, as Stanford CoreNLP writes it.

Quotes tell opening from closing (double: two backquotes, two apostrophes; single: one), brackets are names
(``-LRB-``), and clitics are cut off (``ca n't``, ``can not``). A whole sentence or passage is meant, with the candidate
already in the place of ``XXXXX``: then what surrounds it is spelled as for any other word.
"""

import re
from collections.abc import Iterator, Sequence

from gpt2jax.evaluate.detokenize.moses import is_abbreviation
from gpt2jax.evaluate.detokenize.words import Joined, WordDetokenizer

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_NAMES = {mark: name for name, mark in _BRACKETS.items()}

_SPELLED = {
    **{name: Joined(mark in ")]}", mark in "([{", mark) for name, mark in _BRACKETS.items()},
    "``": Joined(False, True, '"'),
    "''": Joined(True, False, '"'),
    "`": Joined(False, True, "'"),
    "--": Joined(True, True, "--"),
    **{mark: Joined(True, False, mark) for mark in [",", ".", ";", ":", "!", "?", "...", "'", "%"]},
    **{mark: Joined(False, True, mark) for mark in ["$", "£"]},
}

# Two words of the treebank that are one of English: can not, gon na, 't was.
_HALVES = {"not": ["can"], "na": ["gon", "wan"], "ta": ["got"], "me": ["gim", "lem"], "is": ["'t"], "was": ["'t"]}
_WHOLE = re.compile(r"(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|('t)(is|was)", re.IGNORECASE)
_CLITIC = r"n't|'(?:s|re|ve|ll|m|d)"
# Words that begin with an apostrophe rather than with a quotation.
_ELIDED = r"'(?:em|tis|twas|twill|twere|cause|til|neath|mid|gainst|n|t)\b"

_PIECE = re.compile(
    "|".join(
        [
            r"(?P<bracket>[][(){}])",
            r"(?P<quote>\")",
            rf"(?P<elided>(?<!\w){_ELIDED})",
            rf"(?<=\w)(?:{_CLITIC})(?!\w)",
            r"(?P<single>')",
            rf"(?P<word>(?:(?!(?:{_CLITIC})(?!\w))(?:\w|(?<=\w)[.,'\u2019](?=\w)|(?<!-)-(?!-)))+)",
            r"\.\.+|--+|.",
        ]
    ),
    re.IGNORECASE | re.DOTALL,
)


def _joins(words: Sequence[str]) -> list[Joined | None]:
    joined: list[Joined | None] = []
    for before, word in zip(["", *words[:-1]], words, strict=True):
        clitic = re.fullmatch(_CLITIC, word, re.IGNORECASE) or before.lower() in _HALVES.get(word.lower(), [])
        joined.append(Joined(True, False, word) if clitic else _SPELLED.get(word))
    return joined


def _cut(piece: str, following: str) -> Iterator[str]:
    if piece in _SPELLED:
        yield piece
        return
    at = 0
    for found in _PIECE.finditer(piece):
        if found.start() < at:
            continue
        at, word = found.end(), found[0]
        before, after = piece[: found.start()], piece[at:]
        opens = after != "" and (not before.strip("([{\"'") or (before.endswith("--") and after[0].isalnum()))
        match found.lastgroup:
            case "bracket":
                yield _NAMES[word]
            case "quote":
                yield "``" if opens else "''"
            case "single":
                yield "`" if opens else "'"
            case "word" | "elided":
                if piece[at : at + 1] == "." and piece[at : at + 2] != ".." and word != "I" and is_abbreviation(word):
                    at += 1
                    word += "."
                halves = _WHOLE.fullmatch(word)
                yield from filter(None, halves.groups()) if halves else [word]
            case _:
                yield word


CBT = WordDetokenizer("cbt", _joins, _cut)
