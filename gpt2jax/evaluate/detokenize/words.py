"""How the words of a tokenized line stand in natural text: each alone, or with its neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

from gpt2jax.evaluate.detokenize.pair import Edit


class Joined(NamedTuple):
    """A word spelled ``text``, without the space before it (``left``) or after it (``right``)."""

    left: bool
    right: bool
    text: str


def joined_edits(words: Sequence[str], joined: Sequence[Joined | None]) -> list[Edit]:
    """The edits of ``" ".join(words)`` that join words so; None leaves a word alone."""
    edits: list[Edit] = []
    start, done = 0, 0
    for index, (word, join) in enumerate(zip(words, joined, strict=True)):
        end = start + len(word)
        if join is not None:
            # The space between two words that both want it gone goes with the first.
            first = max(done, start - 1) if join.left and index else start
            last = end + 1 if join.right and index + 1 < len(words) else end
            if (first, last, join.text) != (start, end, word):
                edits.append(Edit(first, last, join.text))
            done = last
        start = end + 1
    return edits


def outer_spaces(words: Sequence[str], joined: list[Joined | None]) -> None:
    """Where a line begins and ends with a space, as WikiText's and PTB's do, natural text has neither."""
    if len(words) > 1 and words[0] == words[-1] == "":
        joined[0], joined[-1] = Joined(False, True, ""), Joined(True, False, "")


def padded(text: str) -> str:
    """The line of which :func:`outer_spaces` made ``text``: an empty one was a single space."""
    return f" {text} " if text else " "
