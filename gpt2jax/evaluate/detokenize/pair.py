"""A de-tokenizer and its way back, and a file's lines de-tokenized so that none of them is lost.

The likelihood of a data set is that of the text the model reads, if every data set has a text of its own. So the rules
are allowed to guess only where the guess can be checked: the way back, :func:`Reversible.retokenize`, sees nothing but
the natural text and has to return the line to the last character. Where it would not, :func:`Reversible.detokenize`
leaves the one word at fault in its tokenized spelling (``Jr .``), which the way back does not touch; only a line that
no such exception saves stands as it was.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gpt2jax.errors import GPT2JaxError

# Where the way back goes wrong, the edit at fault is next to that place or, for a rule that looks at the following
# word, one word before. With none as near, the line is not one of these rules' making.
_REACH = 24


class Detokenizer(Protocol):
    """Two functions from a line, without its newline, to a line. Nothing is promised of ``retokenize(detokenize(x))``:
    :func:`detokenized` looks."""

    @property
    def name(self) -> str: ...

    def detokenize(self, line: str) -> str: ...

    def retokenize(self, line: str) -> str: ...


class Edit(NamedTuple):
    """``line[start:end]`` becomes ``text``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Reversible:
    """A de-tokenizer made of edits that can be left out one by one.

    Attributes:
        name: the data set's, as in reports.
        edits: what a line's natural form would change, from left to right and without overlap.
        retokenizer: from natural text to the tokenized line; leaves tokenized spellings as they are.
    """

    name: str
    edits: Callable[[str], list[Edit]]
    retokenizer: Callable[[str], str]

    def detokenize(self, line: str) -> str:
        """The line with as many of its edits as the way back undoes; with none, the line itself."""
        edits = self.edits(line)
        while edits:
            natural = _edited(line, edits)
            back = self.retokenizer(natural)
            if back == line:
                return natural
            at = len(os.path.commonprefix([back, line]))
            worst = min(edits, key=lambda edit: max(edit.start - at, at - edit.end, 0))
            if max(worst.start - at, at - worst.end) > _REACH:
                return line
            edits.remove(worst)
        return line

    def retokenize(self, line: str) -> str:
        """The tokenized line of a natural one."""
        return self.retokenizer(line)


def _edited(line: str, edits: Sequence[Edit]) -> str:
    pieces, done = [], 0
    for edit in edits:
        pieces += [line[done : edit.start], edit.text]
        done = edit.end
    return "".join([*pieces, line[done:]])


@dataclass(frozen=True)
class Detokenized:
    """A file's lines as the model reads them.

    Attributes:
        name: the de-tokenizer's.
        lines: one for each line of the file, in order.
        as_is: those of them that are the file's own although the rules would write another: the way back leaves these
            alone, and no other line of the file has become one of them.
        changed: lines that differ from the file's.
        kept: lines of the file that are in ``as_is``.
        words: in the file, separated by white space.
        words_covered: of them in lines that come back by the rules alone.
        retokenize: the way back.
    """

    name: str
    lines: list[str]
    as_is: frozenset[str]
    changed: int
    kept: int
    words: int
    words_covered: int
    retokenize: Callable[[str], str]

    @property
    def coverage(self) -> float:
        """The share of words in lines that come back by the rules alone; 1 for a file without words."""
        return self.words_covered / self.words if self.words else 1.0

    def original(self) -> list[str]:
        """The file's lines again, from ``lines`` and the lines known to be ``as_is``."""
        return [line if line in self.as_is else self.retokenize(line) for line in self.lines]


def detokenized(lines: Sequence[str], detokenizer: Detokenizer) -> Detokenized:
    """A file's lines de-tokenized where ``retokenize`` restores them exactly, and else as they are.

    Two lines that differ stay different: two de-tokenized ones because each comes back to its own, and where one would
    become what another is kept as, it is kept too.

    Args:
        lines: without their newlines.

    Raises:
        GPT2JaxError: a line holds a newline, so that the file's lines could not be told apart.
    """
    for number, line in enumerate(lines, 1):
        if "\n" in line:
            raise GPT2JaxError(f"line {number}: {line!r}: holds a newline; {detokenizer.name} takes single lines")
    natural: dict[str, str] = {}
    as_is: set[str] = set()
    for line in dict.fromkeys(lines):
        text = detokenizer.detokenize(line)
        if "\n" not in text and detokenizer.retokenize(text) == line:
            natural[line] = text
        else:
            as_is.add(line)
    # One more line kept may be what a further line would become.
    while collided := [line for line, text in natural.items() if text != line and text in as_is]:
        for line in collided:
            del natural[line]
            as_is.add(line)
    result = [natural.get(line, line) for line in lines]
    words = {line: len(line.split()) for line in dict.fromkeys(lines)}
    return Detokenized(
        name=detokenizer.name,
        lines=result,
        as_is=frozenset(as_is),
        changed=sum(new != old for new, old in zip(result, lines, strict=True)),
        kept=sum(line in as_is for line in lines),
        words=sum(words[line] for line in lines),
        words_covered=sum(words[line] for line in lines if line in natural),
        retokenize=detokenizer.retokenize,
    )
