"""Likelihoods the naive way: NumPy in float64, the whole context read anew for every token; no batch, no cache, no jax.

Written from the formulas of openai/gpt-2, src/model.py, and from nothing of this package but the names in its tree of
parameters.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gpt2jax.config import ModelConfig


def logits_after(params: Any, config: ModelConfig, context: Sequence[int]) -> np.ndarray:
    """Logits [n_vocab] (float64) for the token after ``context``."""
    tree = _float64(params)
    x = tree["wte"][list(context)] + tree["wpe"][: len(context)]
    hidden = np.triu(np.ones((len(context), len(context)), bool), 1)  # What comes after.
    for layer in range(config.n_layer):
        block = _layer(tree["h"], layer)
        y = _norm(x, block["ln_1"], config)
        for head in range(config.n_head):
            kernel, bias = block["attn"]["c_attn"]["kernel"][:, :, head], block["attn"]["c_attn"]["bias"][:, head]
            query, key, value = (y @ kernel[:, part] + bias[part] for part in range(3))
            scores = query @ key.T / np.sqrt(config.n_embd / config.n_head)
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            x = x + weights @ value @ block["attn"]["c_proj"]["kernel"][head]
        x = x + block["attn"]["c_proj"]["bias"]
        inner = _norm(x, block["ln_2"], config) @ block["mlp"]["c_fc"]["kernel"] + block["mlp"]["c_fc"]["bias"]
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = x + inner @ block["mlp"]["c_proj"]["kernel"] + block["mlp"]["c_proj"]["bias"]
    return tree["wte"][: config.n_vocab] @ _norm(x[-1], tree["ln_f"], config)


def next_log_probs(params: Any, config: ModelConfig, context: Sequence[int]) -> np.ndarray:
    """Log-probabilities [n_vocab] of every token after ``context``, in nats."""
    logits = logits_after(params, config, context)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def log_probs(params: Any, config: ModelConfig, tokens: Sequence[int], first: int) -> np.ndarray:
    """Of each of ``tokens[first:]`` given all before it."""
    places = range(first, len(tokens))
    return np.array([next_log_probs(params, config, tokens[:at])[tokens[at]] for at in places])


def greedy(
    params: Any, config: ModelConfig, tokens: Sequence[int], first: int, banned: Collection[int] = ()
) -> np.ndarray:
    """Whether each of ``tokens[first:]`` is the most probable one that is not banned."""
    found = []
    for at in range(first, len(tokens)):
        logits = logits_after(params, config, tokens[:at])
        logits[list(banned)] = -np.inf
        found.append(int(logits.argmax()) == tokens[at])
    return np.array(found)


def strided_log_probs(
    params: Any, config: ModelConfig, stream: Sequence[int], window: int, stride: int
) -> dict[int, float]:
    """Of each place in ``stream`` but the first: in the first of the windows [k stride, k stride + window) that has
    it; where they do not overlap, each but the first has the token before it, too."""
    found = {}
    for at in range(1, len(stream)):
        start = next(start for start in range(0, at + 1, stride) if at < start + window)
        start -= int(stride == window and start > 0)
        found[at] = float(next_log_probs(params, config, stream[start:at])[stream[at]])
    return found


def _norm(x: np.ndarray, of: Any, config: ModelConfig) -> np.ndarray:
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + config.layer_norm_epsilon) * of["scale"] + of["bias"]


def _float64(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _float64(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)


def _layer(tree: Any, layer: int) -> Any:
    if isinstance(tree, dict):
        return {name: _layer(leaf, layer) for name, leaf in tree.items()}
    return tree[layer]
