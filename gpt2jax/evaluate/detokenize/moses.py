"""English as the Moses tokenizer spells it (github.com/moses-smt/mosesdecoder), the base of WikiText and 1BW.

It puts spaces around all that is no letter, digit, dot, comma between digits, hyphen or apostrophe; an apostrophe goes
with the letters after it (``don 't``); a final dot stays with initials, abbreviations, what has a dot within, and
whatever a lower-case word follows. :func:`split` does that. :func:`joins` says how a writer would have set such words;
where opening and closing look alike it guesses, and need not be right: both come apart again.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from gpt2jax.evaluate.detokenize.words import Joined

LEFT, RIGHT, BOTH = (True, False), (False, True), (True, True)

# Abbreviations that keep their dot whatever follows, and those that do before a number.
ABBREVIATIONS = frozenset(
    "Adj Adm Adv Asst Bart Bldg Brig Bros Capt Cmdr Co Col Comdr Con Corp Cpl DR Dr Drs Ens Esq Fig Gen Gov Hon Hosp Hr "
    "Inc Insp Jr Lt Ltd MM MR MRS MS Maj Messrs Mlle Mme Mr Mrs Ms Msgr Mt Op Ord Pfc Ph Prof Pvt Rep Reps Res Rev Rt "
    "Sen Sens Sfc Sgt Sr St Ste Supt Surg al etc v vs".split()
)
BEFORE_NUMBER = frozenset("No Nos Art Nr Vol pp p".split())

_ALWAYS = {
    **dict.fromkeys([",", ".", ";", "!", "?", ")", "]", "}", "”", "...", "..", "…", "%", "♯", "™", "®"], LEFT),
    **dict.fromkeys(["(", "[", "{", "$", "£", "€", "¥", "“", "‘", "¿", "¡"], RIGHT),
    **dict.fromkeys(["/", "—", "⁄", "‑", "_", "\u200d", "\u200c"], BOTH),
}
_CLOSING = frozenset([*(word for word, sides in _ALWAYS.items() if sides == LEFT), ":"]) - {"...", "..", "…"}
_OPENING = frozenset(word for word, sides in _ALWAYS.items() if sides == RIGHT)
_CLITICS = frozenset(["s", "t", "re", "ve", "ll", "d", "m"])


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
        elif word == "$" and re.fullmatch(r"US|[ACS]|NZ|HK", before):
            sides = BOTH
        result.append(Joined(*sides, word) if sides else None)
    return result


def _between(word: str, before: str, after: str) -> tuple[bool, bool] | None:
    """The sides on which a word is joined that depend on its neighbours."""
    if len(word) > 1:
        # A clitic: 's, 't, or what else follows an apostrophe (P 'ohang).
        return LEFT if re.match(r"'[^\W\d_]", word) else None
    match word:
        case ":":
            return BOTH if (_number(before) and _number(after)) or (before in _SCHEMES and after == "/") else LEFT
        case "–":
            names = before[:1].isupper() and after[:1].isupper()
            return BOTH if names or (_number(before) and _number(after)) else None
        case "’":
            return BOTH if after in _CLITICS else LEFT
        case "°":
            return RIGHT if after in ("C", "F") else BOTH if re.fullmatch("[NSEW]", after) else LEFT
        case "&":
            return BOTH if re.fullmatch("[A-Z]{1,2}", before) and re.fullmatch("[A-Z]{1,2}", after) else None
        case "#" | "+" | "−":
            return RIGHT if _number(after) and not re.fullmatch(r"\d+|[])]", before) else None
    # What combines with letters stands between them.
    return BOTH if word and unicodedata.category(word).startswith("M") else None


_SCHEMES = frozenset(["http", "https", "ftp"])


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
    # The genitive of ships and of who knows whom; no quotation opens after a plural, and many after small words.
    genitive = before == "<unk>" or (before.endswith(("s", "z", "x")) and before not in _SMALL)
    if not quotes.open and (genitive or before.isdigit()):
        return LEFT
    return quotes.sides(before, after)


_SMALL = frozenset(["as", "is", "was", "has", "his", "its", "this", "does", "says", "calls", "means", "'s", "us", "plus"])

# What split() cuts a piece between two spaces into. A: letter or digit; a name in angle brackets is one as well.
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
    return re.compile("|".join(f"(?P<{name}>{rule})" for name, rule in (alternatives | {"word": word}).items()) + "|.")


_MARKED, _PLAIN = _pieces(True), _pieces(False)


def split(text: str, marked: bool) -> str:
    """Natural text as Moses spells it; spaces that are there stay.

    Args:
        marked: as WikiText does, hyphens within words and the commas and dots of numbers become words of their own,
            ``@-@``, ``@,@`` and ``@.@``.
    """
    chunks = text.split(" ")
    return " ".join(
        " ".join(_words(chunk, after, marked)) for chunk, after in zip(chunks, [*chunks[1:], ""], strict=True)
    )


def _words(chunk: str, after: str, marked: bool) -> Iterator[str]:
    if not chunk:
        yield ""
    at = 0
    for piece in (_MARKED if marked else _PLAIN).finditer(chunk):
        if piece.start() < at:
            continue
        at, word = piece.end(), piece[0]
        if marked and piece.lastgroup == "hyphen":
            yield "@-@"
        elif marked and piece.lastgroup == "number":
            yield re.sub("[.,]", r" @\g<0>@ ", word)
        elif piece.lastgroup == "word" and chunk[at : at + 1] == "." and chunk[at : at + 2] != "..":
            if keeps_dot(word, chunk[at + 1 :] or after):
                at += 1
                word += "."
            yield word
        else:
            yield word


def keeps_dot(word: str, after: str) -> bool:
    """Whether a final dot belongs to ``word``, with ``after`` the text that follows the dot."""
    if word in ABBREVIATIONS or (len(word) == 1 and word.isupper()) or after[:1].islower():
        return True
    if word in BEFORE_NUMBER and (after[:1].isdigit() or after.startswith("<")):
        return True
    return "." in word and any(character.isalpha() for character in word)
