"""WikiText's spelling: Moses', with ``@-@``, ``@,@`` and ``@.@`` within words and numbers, and a space around a line.

Headings read as in Wikipedia's source: `` = = Career = = `` becomes ``== Career ==``. ``<unk>`` and ``<formula>`` stay.
The rules were made in view of WikiText2's test file, which is left without an exception; other files have some.
"""

from collections.abc import Sequence
from functools import partial

from gpt2jax.evaluate.detokenize import moses
from gpt2jax.evaluate.detokenize.words import Joined, WordDetokenizer


def _joins(words: Sequence[str]) -> list[Joined | None]:
    marks = {"@-@", "@,@", "@.@"}
    return [
        Joined(True, True, word[1]) if word in marks else join
        for word, join in zip(words, moses.joins(words), strict=True)
    ]


WIKITEXT = WordDetokenizer("wikitext", _joins, partial(moses.cut, marked=True), padded=True)
