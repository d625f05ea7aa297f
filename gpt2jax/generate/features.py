"""Features of texts: a model's states at any layer, whole or pooled."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.shapes import by_length, padded
from gpt2jax.parameters import Params

Pool = Literal["mean", "last", "none"]


def features(
    params: Params,
    texts: Sequence[Sequence[int]],
    config: ModelConfig,
    *,
    layer: int = -1,
    pool: Pool = "mean",
    batch_size: int = 16,
) -> list[np.ndarray]:
    """Features of each text, float32: [width], or [tokens, width] without pooling.

    Texts are computed in batches, padded on the right: a position sees only those before it, so that padding reaches
    no feature; and it is left out of the mean.

    Args:
        params: stacked, as :func:`gpt2jax.load` gives them.
        texts: tokens, at least one and at most ``config.n_ctx`` in each.
        layer: 0 is the embedding, l the output of block l; the last one, also called -1, is taken after the final
            layer norm (as Hugging Face's ``hidden_states`` are).
        pool: ``mean`` over the positions, the ``last`` position, or ``none``.

    Raises:
        GPT2JaxError: no such layer, or a text that is empty or too long.
    """
    if not -config.n_layer - 1 <= layer <= config.n_layer:
        raise GPT2JaxError(f"layer: {layer}: should be {-config.n_layer - 1} to {config.n_layer}")
    if batch_size < 1:
        raise GPT2JaxError(f"batch_size: {batch_size}: should be at least 1")
    for number, tokens in enumerate(texts, 1):
        if not 1 <= len(tokens) <= config.n_ctx:
            allowed = f"1 to the model's context, {config.n_ctx}"
            raise GPT2JaxError(f"text {number}: {len(tokens)} tokens: should be {allowed}")
    found: dict[int, np.ndarray] = {}
    for numbers in by_length(texts, batch_size):
        tokens_BT, length_B = padded([texts[number] for number in numbers], config.n_ctx)
        pooled = np.asarray(_pooled(params, tokens_BT, length_B, config=config, layer=layer, pool=pool))
        for row, number in enumerate(numbers):
            found[number] = pooled[row, : length_B[row]] if pool == "none" else pooled[row]
    return [found[number] for number in range(len(texts))]


@functools.partial(jax.jit, static_argnames=("config", "layer", "pool"))
def _pooled(
    params: Params, tokens_BT: jax.Array, length_B: jax.Array, *, config: ModelConfig, layer: int, pool: Pool
) -> jax.Array:
    states_BTD = model.hidden_states(params, tokens_BT, config)[layer].astype(jnp.float32)
    if pool == "none":
        return states_BTD
    if pool == "last":
        return jnp.take_along_axis(states_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]
    real_BT = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
    # Not a product with 0: that would keep a NaN of the padding.
    sum_BD = jnp.sum(jnp.where(real_BT[:, :, None], states_BTD, 0.0), axis=1)
    return sum_BD / length_B[:, None].astype(jnp.float32)
