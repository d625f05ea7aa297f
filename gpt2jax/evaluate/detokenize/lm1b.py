"""The 1 Billion Word Benchmark's spelling: Moses', a sentence a line, with decimals and hyphens left within words."""

from functools import partial

from gpt2jax.evaluate.detokenize import moses
from gpt2jax.evaluate.detokenize.words import WordDetokenizer

LM1B = WordDetokenizer("lm1b", moses.joins, partial(moses.cut, marked=False))
