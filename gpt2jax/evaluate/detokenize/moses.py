"""English as the Moses tokenizer spells it (github.com/moses-smt/mosesdecoder), the base of WikiText and 1BW.

It puts spaces around all that is no letter, digit, dot, comma between digits, hyphen or apostrophe; an apostrophe goes
with the letters after it (``don 't``); a final dot stays with initials, abbreviations, what has a dot within, and
whatever a lower-case word follows. :func:`cut` does that. :func:`joins` says how a writer would have set such words;
where opening and closing look alike it guesses, and need not be right: both come apart again.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from gpt2jax.evaluate.detokenize.words import Joined

LEFT, RIGHT, BOTH = (True, False), (False, True), (True, True)

# What keeps its dot whatever follows (titles, ranks, offices), and what does so before a number. Moses' list has no
# Inc, Jr, Co, etc or al: theirs is a word of its own unless a lower-case word follows.
_TITLES = """
    Mr Mrs Ms MR MRS MS Mlle Mme Messrs Msgr MM Dr DR Drs Prof Rev rev Rt Hon Sr St Supt Surg Insp Adj Adm Asst
    Brig Capt Cmdr Col Comdr Cpl Ens Gen Lt Maj Pfc Pvt Sfc Sgt Gov Rep Reps Sen Sens Res Bart Bldg Bros Con Corp
    Hosp Hr Op Ord Ph Adv v vs
"""
ABBREVIATIONS = frozenset(_TITLES.split())
BEFORE_NUMBER = frozenset(["No", "Nos", "Art", "Nr", "pp"])

_DOTS = ["...", "..", "\N{HORIZONTAL ELLIPSIS}"]
_TO_THE_LEFT = [",", ".", ";", "!", "?", ")", "]", "}", "%", "\N{RIGHT DOUBLE QUOTATION MARK}", "\N{MUSIC SHARP SIGN}"]
_OPENING = ["(", "[", "{", "$", "£", "€", "¥", "\N{LEFT SINGLE QUOTATION MARK}", "\N{LEFT DOUBLE QUOTATION MARK}"]
_BETWEEN = ["/", "_", "\N{EM DASH}", "\N{FRACTION SLASH}", "\N{NON-BREAKING HYPHEN}"]
_ALWAYS = {
    **dict.fromkeys(_DOTS + _TO_THE_LEFT, LEFT),
    **dict.fromkeys(_OPENING, RIGHT),
    **dict.fromkeys(_BETWEEN, BOTH),
}
_CLOSING = [*_TO_THE_LEFT, ":"]
_CLITICS = ["s", "t", "re", "ve", "ll", "d", "m"]
_SCHEMES = ["http", "https", "ftp"]
# End in s, and are before a quotation more often than they are a genitive.
_SMALL = ["as", "is", "was", "has", "his", "its", "this", "does", "says", "calls", "means", "'s", "us", "plus"]


def joins(words: Sequence[str]) -> list[Joined | None]:
    """How each word of a tokenized line stands in natural text."""
    double, single = _Quotes(), _Quotes()
    result: list[Joined | None] = []
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        after = words[index + 1] if index + 1 < len(words) else ""
        sides = _ALWAYS.get(word)
        if word == '"':
            sides = double.sides(before, after)
        elif word == "'":
            sides = _apostrophe(single, before, after)
        elif sides is None:
            sides = _between(word, before, after)
        elif word == "$" and re.fullmatch("US|NZ|HK", before):
            sides = BOTH
        result.append(Joined(*sides, word) if sides else None)
    return result


def _between(word: str, before: str, after: str) -> tuple[bool, bool] | None:
    """The sides on which a word is joined that depend on its neighbours."""
    if len(word) > 1:
        # A clitic: 's, 't, or what else follows an apostrophe (P 'ohang).
        return LEFT if re.match(r"'[^\W\d_]", word) else None
    match word:
        case "=":
            # The marks of a heading: = = Career = =.
            return RIGHT if after == "=" else None
        case ":":
            return BOTH if (_number(before) and _number(after)) or (before in _SCHEMES and after == "/") else LEFT
        case "\N{EN DASH}":
            names = before[:1].isupper() and after[:1].isupper()
            return BOTH if names or (_number(before) and _number(after)) else None
        case "\N{RIGHT SINGLE QUOTATION MARK}":
            return BOTH if after in _CLITICS else LEFT
        case "°":
            return RIGHT if after in ("C", "F") else BOTH if re.fullmatch("[NSEW]", after) else LEFT
        case "&":
            return BOTH if re.fullmatch("[A-Z]{1,2}", before) and re.fullmatch("[A-Z]{1,2}", after) else None
        case "#" | "+" | "\N{MINUS SIGN}":
            return RIGHT if _number(after) and not re.fullmatch(r"\d+|[])]", before) else None
    # What combines with letters stands between them.
    return BOTH if word and unicodedata.category(word).startswith("M") else None


def _number(word: str) -> bool:
    return word[:1].isdigit() or word == "<unk>"


class _Quotes:
    """Marks that look alike open and close in turn, unless what stands beside them says otherwise."""

    def __init__(self) -> None:
        self.open = False

    def sides(self, before: str, after: str) -> tuple[bool, bool]:
        if self.open:
            self.open = before in _OPENING
        else:
            self.open = not (after in _CLOSING and before not in ("", *_OPENING))
        return RIGHT if self.open else LEFT


def _apostrophe(quotes: _Quotes, before: str, after: str) -> tuple[bool, bool]:
    if re.match(r"\d0s", after):
        return RIGHT
    # The genitive of ships and of who knows whom.
    genitive = before == "<unk>" or (before.endswith(("s", "z", "x")) and before not in _SMALL)
    if not quotes.open and (genitive or before.isdigit()):
        return LEFT
    return quotes.sides(before, after)


# What cut() finds in a piece. A: a letter or digit; beside marks, a name in angle brackets counts as one.
_A, _UNKNOWN = r"[^\W_]", r"<[a-z]+>"
_MARKED_HYPHEN = rf"(?<=[^\W_]|>)-(?=[^\W_]|{_UNKNOWN})"


def _pieces(marked: bool) -> re.Pattern[str]:
    number = rf"(?<![^\W_])(?:\d+|{_UNKNOWN})(?:[.,](?:\d+|{_UNKNOWN}))+(?![^\W_])"
    hyphen = rf"(?!{_MARKED_HYPHEN})-" if marked else "-"
    word = rf"(?:{_A}|{hyphen}|\.(?={_A})|(?<=\d),(?=\d))+"
    clitic = rf"(?<=[^\W_]|>)'[^\W\d_]{_A}*|(?<=[\")\]])'s(?!{_A})"
    alternatives = {"number": number, "atom": rf"{_UNKNOWN}|@[-,.]@", "dots": r"\.\.+", "clitic": clitic}
    if marked:
        alternatives["hyphen"] = _MARKED_HYPHEN
    named = [f"(?P<{name}>{rule})" for name, rule in (alternatives | {"word": word}).items()]
    return re.compile("|".join([*named, "."]), re.DOTALL)


_MARKED, _PLAIN = _pieces(True), _pieces(False)


def cut(piece: str, following: str, marked: bool) -> Iterator[str]:
    """The words of a piece of natural text without spaces.

    Args:
        piece: not empty.
        following: the piece after it.
        marked: as WikiText does, hyphens within words and the commas and dots of numbers become words of their own,
            ``@-@``, ``@,@`` and ``@.@``.
    """
    at = 0
    for found in (_MARKED if marked else _PLAIN).finditer(piece):
        if found.start() < at:
            continue
        at, word = found.end(), found[0]
        if marked and found.lastgroup == "hyphen":
            yield "@-@"
        elif marked and found.lastgroup == "number":
            yield from re.sub("[.,]", r" @\g<0>@ ", word).split()
        elif found.lastgroup == "word" and piece[at : at + 1] == "." and piece[at : at + 2] != "..":
            if _keeps_dot(word, piece[at + 1 :] or following):
                at += 1
                word += "."
            yield word
        else:
            yield word


def _keeps_dot(word: str, after: str) -> bool:
    """Whether a final dot belongs to ``word``, with ``after`` the text that follows the dot."""
    number = after[:1].isdigit() or after.startswith("<")
    return is_abbreviation(word) or after[:1].islower() or (number and word in BEFORE_NUMBER)


def is_abbreviation(word: str) -> bool:
    """Whether a dot after ``word`` is part of it: ``Mr``, an initial, ``U.S`` and its like."""
    if word in ABBREVIATIONS or (len(word) == 1 and word.isupper()):
        return True
    return "." in word and any(character.isalpha() for character in word)
