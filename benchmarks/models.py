"""Random models in Hugging Face's form, which both sides of a benchmark read, so that they have the same weights."""

from pathlib import Path

import jax

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin


def write(config: ModelConfig, folder: Path) -> Path:
    """A freshly initialised model in ``folder``; its vocabulary, which nothing here reads as text, is GPT-2's."""
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    convert(HeldWeights(Origin("random", "random", config, tokenizer.gpt2()), params), folder, "huggingface")
    return folder
