"""De-tokenizers: data sets that were cut into words, as text that a person would have written, and back.

The paper's figures were made with "invertible de-tokenizers" that were never published; these are our own. Per data
set, :data:`DETOKENIZERS` has a pair of functions, and :func:`detokenized` applies it to a file's lines so that every
line can be restored. The scored text begins no line with a space that the data set has put there, since WebText's lines
begin with none.

text8 has no entry: lower-case letters and single spaces, numbers spelled out, leave nothing that could be undone
knowing only the result. WikiText103 is scored without one, as the paper's figure was.
"""

from gpt2jax.evaluate.detokenize.cbt import CBT
from gpt2jax.evaluate.detokenize.enwik8 import ENWIK8
from gpt2jax.evaluate.detokenize.lm1b import LM1B
from gpt2jax.evaluate.detokenize.pair import Detokenized, Detokenizer, Pair, detokenized
from gpt2jax.evaluate.detokenize.ptb import PTB, PTB_ONE, PTB_ONE_QUERY
from gpt2jax.evaluate.detokenize.published import megatron_rules, megatron_wikitext
from gpt2jax.evaluate.detokenize.wikitext import WIKITEXT

DETOKENIZERS: dict[str, Detokenizer] = {
    pair.name: pair for pair in (WIKITEXT, PTB, PTB_ONE, PTB_ONE_QUERY, CBT, LM1B, ENWIK8)
}

__all__ = [
    "CBT",
    "DETOKENIZERS",
    "ENWIK8",
    "LM1B",
    "PTB",
    "PTB_ONE",
    "PTB_ONE_QUERY",
    "WIKITEXT",
    "Detokenized",
    "Detokenizer",
    "Pair",
    "detokenized",
    "megatron_rules",
    "megatron_wikitext",
]
