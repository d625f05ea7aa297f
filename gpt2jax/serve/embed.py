"""Features of one text, from parameters for decoding; :mod:`gpt2jax.generate.features` has all layers."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.generate.shapes import padded
from gpt2jax.parameters import Params


def embed(params: Params, tokens: Sequence[int], config: ModelConfig, *, pool: Literal["mean", "last"]) -> np.ndarray:
    """Final states, float32 [D]: their mean over the text, or the last position's.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        tokens: 1 to the context of them.
    """
    tokens_1T, length_1 = padded([tokens], config.n_ctx)
    return np.asarray(_embed(params, tokens_1T, length_1, config=config, pool=pool))


@functools.partial(jax.jit, static_argnames=("config", "pool"))
def _embed(params: Params, tokens_1T: jax.Array, length_1: jax.Array, *, config: ModelConfig, pool: str) -> jax.Array:
    x_1TD, _ = model.read(params, tokens_1T, config)
    states_TD = model.final_norm(params, x_1TD, config)[0].astype(jnp.float32)
    position_T1 = jnp.arange(states_TD.shape[0])[:, None]
    if pool == "last":
        return jnp.sum(jnp.where(position_T1 == length_1[0] - 1, states_TD, 0.0), axis=0)
    return jnp.sum(jnp.where(position_T1 < length_1[0], states_TD, 0.0), axis=0) / length_1[0].astype(jnp.float32)
