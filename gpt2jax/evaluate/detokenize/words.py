"""De-tokenizers for text whose words, marks among them, stand between single spaces.

Natural text is made by joining words; the way back cuts each piece between two spaces into words, by rules that see
nothing else but the piece after it. Where they would cut otherwise than the line does, the exception stays in the
text, at that one place: words that should not have been joined stay apart (``Jr .``), which needs no rule on the way
back; and a word that would be cut though it is one (``Jan.``) has a second space before it, which says so. With these
two, every line comes back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Joined(NamedTuple):
    """A word spelled ``text`` without the space before it (``left``), after it (``right``), or with both."""

    left: bool
    right: bool
    text: str


@dataclass(frozen=True)
class WordDetokenizer:
    """The :class:`~gpt2jax.evaluate.detokenize.pair.Detokenizer` of a way to spell words.

    Attributes:
        name: the data set's.
        joins: how each word of a line stands in natural text; None for a word by itself, spelled as it is.
        cut: the words of a piece of natural text without spaces, given also the piece that follows ("" at the end).
        padded: the data set's lines begin and end with a space, which natural text does not have; an empty line of it
            is one space. A line that lacks them stays as it is; for a release that has stripped its lines, take
            ``dataclasses.replace(PTB, padded=False)``.
    """

    name: str
    joins: Callable[[Sequence[str]], list[Joined | None]]
    cut: Callable[[str, str], Iterable[str]]
    padded: bool = False

    def detokenize(self, line: str, /) -> str:
        """Natural text with as many of the joins as the way back undoes."""
        inner = line[1:-1] if self.padded else line
        if line != self._outer(inner):
            return line
        words = inner.split(" ")
        joined = self.joins(words)
        # Between two spaces stands an empty word, which any space would otherwise announce; not so at the end.
        literal = {index for index, word in enumerate(words[:-1]) if not word}
        while (wrong := self._first_wrong(words, joined, literal)) is not None:
            beside = [index for index in (wrong + 1, wrong, wrong - 1) if _touches(joined, index, wrong)]
            if wrong in literal and not beside:
                return line
            for index in beside:
                apart = [None if other == index else join for other, join in enumerate(joined)]
                further = self._first_wrong(words, apart, literal)
                if further is None or further > wrong:
                    joined = apart
                    break
            else:
                joined = [None if other in beside else join for other, join in enumerate(joined)]
                literal.add(wrong)
        return _text(words, joined, literal)

    def retokenize(self, line: str, /) -> str:
        """The tokenized line."""
        return self._outer(" ".join(self._words(line)))

    def _outer(self, inner: str) -> str:
        if not self.padded:
            return inner
        return f" {inner} " if inner else " "

    def _first_wrong(self, words: list[str], joined: list[Joined | None], literal: set[int]) -> int | None:
        """Where the way back first differs from ``words``."""
        back = self._words(_text(words, joined, literal))
        if back == words:
            return None
        pairs = enumerate(zip(words, back, strict=False))
        return next((index for index, (word, found) in pairs if word != found), min(len(words), len(back)) - 1)

    def _words(self, text: str) -> list[str]:
        pieces = text.split(" ")
        words: list[str] = []
        index = 0
        while index < len(pieces):
            if pieces[index] == "" and index + 1 < len(pieces):
                words.append(pieces[index + 1])
                index += 2
            else:
                following = next(filter(None, pieces[index + 1 : index + 3]), "")
                words += self.cut(pieces[index], following) if pieces[index] else [""]
                index += 1
        return words


def _touches(joined: Sequence[Joined | None], index: int, word: int) -> bool:
    """Whether the join at ``index`` is that of ``word`` or takes a space beside it."""
    join = joined[index] if 0 <= index < len(joined) else None
    return join is not None and (index == word or (join.left if index > word else join.right))


def _text(words: Sequence[str], joined: Sequence[Joined | None], literal: set[int]) -> str:
    pieces: list[str] = []
    space = False
    for index, (word, join) in enumerate(zip(words, joined, strict=True)):
        if space and not (join and join.left):
            pieces.append(" ")
        if index in literal:
            pieces.append(" ")
        pieces.append(join.text if join else word)
        space = not (join and join.right)
    return "".join(pieces)
