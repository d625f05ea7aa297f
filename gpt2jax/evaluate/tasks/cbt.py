"""The Children's Book Test (Hill et al. 2016): which of ten words is missing in the sentence after twenty others.

"We compute the probability of each choice and the rest of the sentence conditioned on this choice" (Radford et al.
2019, section 3.2), and take the most probable. The choice is put into the sentence before that is de-tokenized, so
that the spaces around it are right. Where twenty sentences do not fit before the last one, their beginning is dropped.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt2jax.evaluate.detokenize import CBT
from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.readers import BLANK, CbtItem, read_cbt
from gpt2jax.evaluate.rows import Row
from gpt2jax.evaluate.tasks.items import continuation, percent
from gpt2jax.tokenizer import encode_corpus
