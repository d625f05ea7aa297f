"""WikiText's spelling: Moses', with ``@-@``, ``@,@`` and ``@.@`` within words and numbers, and a space around a line.

Headings stay (`` = Title = `` becomes ``= Title =``), and so do ``<unk>`` and ``<formula>``.
"""

from gpt2jax.evaluate.detokenize import moses
from gpt2jax.evaluate.detokenize.pair import Edit, Reversible
from gpt2jax.evaluate.detokenize.words import Joined, joined_edits, outer_spaces, padded


def _edits(line: str) -> list[Edit]:
    words = line.split(" ")
    joined = moses.joins(words)
    for index, word in enumerate(words):
        if word in ("@-@", "@,@", "@.@"):
            joined[index] = Joined(True, True, word[1])
    outer_spaces(words, joined)
    return joined_edits(words, joined)


WIKITEXT = Reversible("wikitext", _edits, lambda text: padded(moses.split(text, marked=True)))
