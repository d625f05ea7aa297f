"""GPT-2 in pure-functional JAX and Flax.

Importing the package imports nothing else; import the room you need: ``gpt2jax.model``, ``gpt2jax.generate.text``.
:func:`load` is the way in for weights.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2jax.partition import Partition
    from gpt2jax.weights.sources import Loaded

__version__ = "0.1.0"


def load(source: "str | Path", place: "Partition | None" = None) -> "Loaded":
    """Parameters, settings and tokenizer of any GPT-2: ``params, config, tokenizer = gpt2jax.load("gpt2-medium")``.

    ``source`` is a run's folder, a checkpoint, a folder of OpenAI's, Hugging Face's or nanoGPT's, a file of llm.c's,
    or the name of a released model; see :func:`gpt2jax.weights.sources.load`.
    """
    from gpt2jax.weights import sources

    return sources.load(source, place)
