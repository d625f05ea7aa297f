"""What a model makes of texts that are there already: the log-probability of each of their tokens."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import log_probs
from gpt2jax.generate.request import check_alternatives
from gpt2jax.generate.shapes import by_length, padded
from gpt2jax.ops import map_positions
from gpt2jax.parameters import Params

# Positions whose logits exist at once.
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Score:
    """Of one text."""

    log_probs: list[float]
    """Of each token but the first, given those before it, in nats."""
    top: list[list[tuple[int, float]]]
    """In the place of each of them: the most probable tokens with their log-probabilities, where asked for."""


def score(
    params: Params, texts: Sequence[Sequence[int]], config: ModelConfig, *, alternatives: int = 0, batch_size: int = 16
) -> list[Score]:
    """Log-probabilities of the tokens of ``texts``, each text by itself; of float32 logits.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        texts: tokens, at most the context of them.
        alternatives: most probable tokens to note at each place.

    Raises:
        GPT2JaxError: a text without tokens, longer than the context, or with a token that is not in the vocabulary;
            more alternatives than there are tokens.
    """
    check_alternatives(alternatives, config)
    for number, text in enumerate(texts, 1):
        if not 1 <= len(text) <= config.n_ctx:
            raise GPT2JaxError(f"text {number}: {len(text)} tokens: should be 1 to the context, {config.n_ctx}")
        if not 0 <= min(text) <= max(text) < config.n_vocab:
            raise GPT2JaxError(f"text {number}: a token outside of the vocabulary of {config.n_vocab:,}")
    scores: dict[int, Score] = {}
    for numbers in by_length(texts, batch_size):
        tokens_BT, _ = padded([texts[number] for number in numbers], config.n_ctx)
        log_prob_BT, token_BTN, top_BTN = map(
            np.asarray, _score(params, jax.device_put(tokens_BT), config=config, alternatives=alternatives)
        )
        for row, number in enumerate(numbers):
            places = range(len(texts[number]) - 1)
            pairs = [zip(token_BTN[row, at], top_BTN[row, at], strict=True) for at in places]
            top = [[(int(token), float(value)) for token, value in some] for some in pairs] if alternatives else []
            scores[number] = Score([float(log_prob_BT[row, at]) for at in places], top)
    return [scores[number] for number in range(len(texts))]


@functools.partial(jax.jit, static_argnames=("config", "alternatives"))
def _score(
    params: Params, tokens_BT: jax.Array, *, config: ModelConfig, alternatives: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """At each place: log-probability of the next token, and the N most probable ones [B, T, N] with theirs."""
    next_BT = jnp.roll(tokens_BT, -1, axis=1)  # The last place has none; nobody reads it.
    x_BTD, _ = model.read(params, tokens_BT, config)

    def score(x_BCD: jax.Array, next_BC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return log_probs(model.head(params, x_BCD, config), next_BC, alternatives, config)

    return map_positions(score, CHUNK, x_BTD, next_BT)
