"""Attention weights and logit lens against plain float64, on the weights that Hugging Face's program has read."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import lora, model
from gpt2jax.config import LoraConfig
from gpt2jax.inside import attention_weights, logit_lens
from tests.helpers import Checkpoint, distance


def normed(x: np.ndarray, norm: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]


def plain_layers(checkpoint: Checkpoint, scale: float = 1.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights [B, H, T, T] of each layer, and what goes into each and comes out of the last [B, T, D]; float64.

    Args:
        scale: of the scores, beside 1/sqrt(K).
    """
    config, expected = checkpoint.config, checkpoint.expected
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), checkpoint.params)
    x = params["wte"][expected["tokens"]] + params["wpe"][: expected["tokens"].shape[1]]
    weights, states = [], [x]
    for number in range(config.n_layer):
        block = jax.tree.map(lambda leaf, number=number: leaf[number], params["h"])
        attn, mlp, length = block["attn"], block["mlp"], x.shape[1]
        qkv = np.einsum("btd,dchk->cbhtk", normed(x, block["ln_1"]), attn["c_attn"]["kernel"])
        q, k, v = qkv + attn["c_attn"]["bias"][:, None, :, None]
        scores = np.einsum("bhtk,bhsk->bhts", q, k) * config.head_dim**-0.5 * scale
        scores[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
        exp = np.exp(scores - scores.max(-1, keepdims=True))
        weights.append(exp / exp.sum(-1, keepdims=True))
        out = np.einsum("bhts,bhsk->bhtk", weights[-1], v)
        x = x + np.einsum("bhtk,hkd->btd", out, attn["c_proj"]["kernel"]) + attn["c_proj"]["bias"]
        h = normed(x, block["ln_2"]) @ mlp["c_fc"]["kernel"] + mlp["c_fc"]["bias"]
        h = h / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3)))
        x = x + h @ mlp["c_proj"]["kernel"] + mlp["c_proj"]["bias"]
        states.append(x)
    return weights, states


def test_attention_weights_are_those_of_a_plain_program(hf_tiny: Checkpoint) -> None:
    tokens_BT = jnp.asarray(hf_tiny.expected["tokens"], jnp.int32)
    weights_LBHTT = attention_weights(hf_tiny.params, tokens_BT, hf_tiny.config)
    assert weights_LBHTT.shape == (3, 3, 4, 32, 32)
    assert weights_LBHTT.dtype == jnp.float32
    plain_LBHTT = np.stack(plain_layers(hf_tiny)[0])
    assert distance(weights_LBHTT, plain_LBHTT) < 1e-5
    # The same comparison sees another scale of the scores, queries and keys exchanged, and layers in another order.
    assert distance(weights_LBHTT, np.stack(plain_layers(hf_tiny, scale=2.0)[0])) > 1e-2
    assert distance(weights_LBHTT, plain_LBHTT.swapaxes(-1, -2)) > 1e-2
    assert distance(weights_LBHTT, plain_LBHTT[::-1]) > 1e-2


def test_attention_weights_are_those_of_bfloat16_too(hf_tiny: Checkpoint) -> None:
    config = dataclasses.replace(hf_tiny.config, compute_dtype="bfloat16")
    tokens_BT = jnp.asarray(hf_tiny.expected["tokens"], jnp.int32)
    weights_LBHTT = attention_weights(hf_tiny.params, tokens_BT, config)
    assert weights_LBHTT.dtype == jnp.float32
    assert 1e-5 < distance(weights_LBHTT, np.stack(plain_layers(hf_tiny)[0])) < 0.1


def test_adapters_are_seen(hf_tiny: Checkpoint) -> None:
    given = LoraConfig(rank=2, alpha=4.0, targets=("h/attn/c_attn/kernel",))
    adapters = lora.init(jax.random.key(0), given, hf_tiny.config)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    params, tokens_BT = hf_tiny.params | adapters, jnp.asarray(hf_tiny.expected["tokens"], jnp.int32)
    weights_LBHTT = attention_weights(lora.scaled(params, given), tokens_BT, hf_tiny.config)
    merged = lora.merged(params, given)
    assert distance(weights_LBHTT, attention_weights(merged, tokens_BT, hf_tiny.config)) < 1e-5
    assert distance(weights_LBHTT, attention_weights(hf_tiny.params, tokens_BT, hf_tiny.config)) > 1e-3


def test_the_lens_reads_each_layer_as_the_head_would(hf_tiny: Checkpoint) -> None:
    config, params, expected = hf_tiny
    tokens_BT = jnp.asarray(expected["tokens"], jnp.int32)
    lens_LBTV = logit_lens(params, tokens_BT, config)
    assert lens_LBTV.dtype == jnp.float32
    norm = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["ln_f"])
    states, wte_VD = plain_layers(hf_tiny)[1], np.asarray(params["wte"], np.float64)
    assert distance(lens_LBTV, np.stack([normed(x, norm) @ wte_VD.T for x in states])) < 1e-4
    assert distance(lens_LBTV[-1], model.forward(params, tokens_BT, config)) < 1e-6
    # Twin: a final layer norm that is applied twice, or not at all.
    assert distance(lens_LBTV[-1], normed(normed(states[-1], norm), norm) @ wte_VD.T) > 1e-2
    assert distance(lens_LBTV[0], states[0] @ wte_VD.T) > 1e-2
