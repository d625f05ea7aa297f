"""The naive way to write, and what the tests of this folder ask for."""

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request, Row
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from tests.helpers import Checkpoint

GREEDY = SamplingConfig(temperature=0.0)

forward = jax.jit(model.forward, static_argnames="config")


def sampling(**settings: object) -> SamplingConfig:
    return SamplingConfig(**settings)  # type: ignore[arg-type]


def batch_of(
    checkpoint: Checkpoint,
    requests: list[Request],
    *,
    end_of_text: int | None = None,
    alternatives: int = 0,
    place: Partition | None = None,
) -> Batch:
    params = decoding_params(checkpoint.params, checkpoint.config)
    return Batch(params, requests, checkpoint.config, end_of_text=end_of_text, alternatives=alternatives, place=place)


def rows_of(checkpoint: Checkpoint, prompts: list[list[int]], settings: SamplingConfig, **rest: object) -> list[Row]:
    requests = [Request(tuple(prompt), settings) for prompt in prompts]
    return batch_of(checkpoint, requests, **rest).run()  # type: ignore[arg-type]


def write(
    checkpoint: Checkpoint, prompts: list[list[int]], settings: SamplingConfig, **rest: object
) -> list[list[int]]:
    return [row.tokens for row in rows_of(checkpoint, prompts, settings, **rest)]


def next_logits(params: Params, tokens: list[int], config: ModelConfig) -> np.ndarray:
    """Logits after ``tokens``, by the whole forward pass over the whole context, so that it compiles once."""
    padded_BT = jnp.array([tokens + [0] * (config.n_ctx - len(tokens))], jnp.int32)
    return np.asarray(forward(params, padded_BT, config=config)[0, len(tokens) - 1, : config.n_vocab])


def naive(params: Params, prompt: list[int], config: ModelConfig, new: int, slide: bool = False) -> list[int]:
    """Greedy, one forward pass a token; with ``slide`` past the context by its last half."""
    tokens, window = list(prompt), list(prompt)
    for _ in range(new):
        if len(window) == config.n_ctx:
            if not slide:
                break
            window = window[-(config.n_ctx // 2) :]
        token = int(next_logits(params, window, config).argmax())
        tokens.append(token)
        window.append(token)
    return tokens[len(prompt) :]


def prompts_of(checkpoint: Checkpoint, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(checkpoint.config.n_vocab, size=length).tolist() for length in lengths]
