"""What a model does between its first layer and its last, as arrays to look at.

Shapes as in :mod:`gpt2jax.model`; ``params`` are stacked over layers, as :func:`gpt2jax.load` gives them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax import attention, model
from gpt2jax.config import ModelConfig
from gpt2jax.model import Dense, LayerNorm
from gpt2jax.parameters import Params


@functools.partial(jax.jit, static_argnames="config")
def attention_weights(params: Params, tokens_BT: jax.Array, config: ModelConfig) -> jax.Array:
    """How much each position attends to which: float32 [L, B, H, T, T], the query's position before the key's.

    A query's weights sum to 1, and those of later positions are 0. That is L * B * H * T * T numbers at once: 0.6 GB
    for a text of 1024 tokens in the smallest released model.

    Args:
        tokens_BT: integer tokens, at most ``config.n_ctx`` of them in a row.

    Raises:
        GPT2JaxError: ``params`` are not this model's.
    """
    inputs_LBTD = model.hidden_states(params, tokens_BT, config)[:-1]
    adapters = params.get("lora", {}).get("h", {}).get("attn", {}).get("c_attn", {})

    def layer(given: tuple[Params, Any, jax.Array]) -> jax.Array:
        block, lora, x_BTD = given
        normed_BTD = LayerNorm(config, "h/ln_1").apply({"params": block["ln_1"]}, x_BTD)
        project = Dense(config, "h/attn/c_attn", "btd,dchk->cbhtk", (1, 3))
        q_BHTK, k_BHTK, _ = project.apply({"params": block["attn"]["c_attn"], "lora": lora}, normed_BTD)
        return attention.causal_weights(q_BHTK, k_BHTK)

    return jax.lax.map(layer, (params["h"], adapters, inputs_LBTD))


@functools.partial(jax.jit, static_argnames="config")
def logit_lens(params: Params, tokens_BT: jax.Array, config: ModelConfig) -> jax.Array:
    """What the model would predict if it ended after each layer: logits, float32 [L + 1, B, T, V].

    Entry 0 reads the embedding, entry l the output of block l, each by the final layer norm and the token embedding
    (nostalgebraist 2020, "interpreting GPT: the logit lens"). The last entry is :func:`gpt2jax.model.forward`. Tokens
    from ``config.n_vocab`` on pad the vocabulary.

    Raises:
        GPT2JaxError: ``params`` are not this model's.
    """
    states_LBTD = model.hidden_states(params, tokens_BT, config)
    # The last of them has been through the final layer norm already.
    within_LBTV = jax.lax.map(lambda x_BTD: model.head(params, x_BTD, config), states_LBTD[:-1])
    return jnp.concatenate([within_LBTV, model.logits(params, states_LBTD[-1])[None]])
