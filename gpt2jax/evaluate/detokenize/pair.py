"""A de-tokenizer with its way back, and a file's lines de-tokenized so that none of them is lost.

The likelihood of a data set is that of the text a model reads, as long as each data set has a text of its own. So a
de-tokenizer may guess, but each guess is checked: the way back sees nothing but the natural text and has to return the
line to the last character. A line that it does not return is read as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2jax.errors import GPT2JaxError


class Detokenizer(Protocol):
    """Two functions from a line, without its newline, to a line. Whether the second undoes the first is not taken on
    trust: :func:`detokenized` looks."""

    @property
    def name(self) -> str: ...

    def detokenize(self, line: str, /) -> str: ...

    def retokenize(self, line: str, /) -> str: ...


@dataclass(frozen=True)
class Pair:
    """A :class:`Detokenizer` from two functions."""

    name: str
    detokenize: Callable[[str], str]
    retokenize: Callable[[str], str]


@dataclass(frozen=True)
class Detokenized:
    """A file's lines as the model reads them.

    Attributes:
        detokenizer: what they were made with.
        lines: one for each line of the file, in order.
        as_is: those of them that the way back must leave alone: lines of the file that it would not have returned.
        changed: how many lines differ from the file's.
        kept: how many lines are in ``as_is``.
        words: in the file, separated by white space.
        words_covered: of them in lines that are not ``kept``.
    """

    detokenizer: Detokenizer
    lines: list[str]
    as_is: frozenset[str]
    changed: int
    kept: int
    words: int
    words_covered: int

    @property
    def coverage(self) -> float:
        """The share of words in lines that round-trip; 1 for a file without words."""
        return self.words_covered / self.words if self.words else 1.0

    def described(self, lines: str = "lines") -> str:
        """The coverage, in words that stand beside a figure; ``lines`` is what they are called."""
        return (
            f"{100 * self.coverage:.2f} % of the words are in {lines} that the de-tokenizer gives back exactly; "
            f"of {len(self.lines):,} {lines} {self.kept:,} were kept as they are"
        )

    def original(self) -> list[str]:
        """The file's lines again, from ``lines`` and the knowledge which of them are ``as_is``."""
        return [line if line in self.as_is else self.detokenizer.retokenize(line) for line in self.lines]


def detokenized(lines: Sequence[str], detokenizer: Detokenizer) -> Detokenized:
    """A file's lines de-tokenized where ``retokenize`` restores them exactly, and else as they are.

    Lines that differ stay different: two de-tokenized ones, because each comes back to its own; and a line that would
    become what another one is kept as is kept as well.

    Args:
        lines: without their newlines.

    Raises:
        GPT2JaxError: a line holds a newline, so that the lines of the text could not be told apart.
    """
    natural: dict[str, str] = {}
    as_is: set[str] = set()
    for number, line in enumerate(lines, 1):
        if line in natural or line in as_is:
            continue
        if "\n" in line:
            raise GPT2JaxError(f"{detokenizer.name}, line {number}: {line!r}: holds a newline; lines come without")
        text = detokenizer.detokenize(line)
        if "\n" not in text and detokenizer.retokenize(text) == line:
            natural[line] = text
        else:
            as_is.add(line)
    # Each line that is kept for this may be what yet another would become.
    while collided := [line for line, text in natural.items() if text != line and text in as_is]:
        for line in collided:
            del natural[line]
        as_is.update(collided)
    read = [natural.get(line, line) for line in lines]
    return Detokenized(
        detokenizer=detokenizer,
        lines=read,
        as_is=frozenset(as_is),
        changed=sum(text != line for text, line in zip(read, lines, strict=True)),
        kept=sum(line in as_is for line in lines),
        words=sum(len(line.split()) for line in lines),
        words_covered=sum(len(line.split()) for line in lines if line in natural),
    )
