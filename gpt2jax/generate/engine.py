"""The jitted engine: a batch of prompts in, tokens out, one ``lax.while_loop`` until every row is done.

A program is compiled for each (batch size, prompt bucket, total bucket); everything else is traced.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model, parameters
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.filters import Knobs, draw
from gpt2jax.model import Cache
from gpt2jax.parameters import Params

SMALLEST_BUCKET = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplingState:
    """What the loop carries."""

    tokens_BS: jax.Array
    """int32: prompts, then what was drawn."""
    position_B: jax.Array
    """int32: where each row's newest token stands."""
    done_B: jax.Array
    """bool."""
    cache: Cache
    """Keys and values of every position before the newest token's."""


def bucket(length: int, n_ctx: int) -> int:
    """The shape that ``length`` is padded to: the next power of two from 64 on, at most ``n_ctx``."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, n_ctx)


def decoding_params(params: Params, config: ModelConfig) -> Params:
    """Parameters as the engine wants them: a list of blocks, and everything that only enters matrix products in the
    compute dtype, cast once here instead of at every token."""
    dtype = model.compute_dtype(config)
    cast = parameters.tree(
        lambda parameter: dtype if parameter.path == "wte" or "/c_" in parameter.path else jnp.float32
    )
    return parameters.unstack(jax.tree.map(lambda leaf, to: leaf.astype(to), params, cast), config)


def generate(
    params: Params,
    prompts: list[list[int]],
    config: ModelConfig,
    *,
    knobs: Knobs,
    max_new_tokens: int,
    seed: int = 0,
    sample_index: list[int] | None = None,
    stop_token: int | None = None,
) -> list[list[int]]:
    """Continue each prompt by up to ``max_new_tokens`` tokens.

    A drawn token is a function of (seed, the row's sample index, its position) and the text before it: the rest of
    the batch, its size, order and padding change nothing (to float rounding of the logits).

    Args:
        params: from :func:`decoding_params`.
        prompts: tokens, at least one and fewer than ``config.n_ctx`` in each.
        knobs: one entry per prompt.
        sample_index: one per prompt (default: all 0); rows with the same prompt differ by it.
        stop_token: ends its row and is not returned.

    Returns:
        The new tokens of each prompt. A row also ends where the context does: positions past it do not exist.

    Raises:
        GPT2JaxError: an empty prompt, or one that fills the context.
    """
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise GPT2JaxError(f"prompt {row}: no tokens; at least one is needed")
        if len(prompt) >= config.n_ctx:
            raise GPT2JaxError(
                f"prompt {row}: {len(prompt)} tokens: should be below the model's context of {config.n_ctx}"
            )
    longest = max(map(len, prompts))
    width = bucket(longest, config.n_ctx)
    total = bucket(max(width, longest + max_new_tokens), config.n_ctx)
    tokens_BT = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, : len(prompt)] = prompt
    length_B = np.array([len(prompt) for prompt in prompts], np.int32)
    index_B = np.array(sample_index if sample_index is not None else [0] * len(prompts), np.int32)
    tokens_BS, position_B, stopped_B = _run(
        params,
        tokens_BT,
        length_B,
        index_B,
        knobs,
        np.int32(max_new_tokens),
        np.uint32(seed),
        np.int32(-1 if stop_token is None else stop_token),
        config=config,
        total=total,
    )
    rows = zip(np.asarray(tokens_BS), np.asarray(position_B), np.asarray(stopped_B), length_B, strict=True)
    return [tokens[length : position + 1 - int(stopped)].tolist() for tokens, position, stopped, length in rows]


@functools.partial(jax.jit, static_argnames=("config", "total"))
def _run(
    params: Params,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    index_B: jax.Array,
    knobs: Knobs,
    max_new: jax.Array,
    seed: jax.Array,
    stop_token: jax.Array,
    *,
    config: ModelConfig,
    total: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    batch, width = tokens_BT.shape
    rows_B = jnp.arange(batch)
    last_B = jnp.minimum(length_B + max_new, total) - 1  # Where each row's last token can stand.
    key = jax.random.key(seed)
    keys_B = jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B)

    def append(tokens_BS: jax.Array, logits_BV: jax.Array, position_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw the token of ``position_B``; what was drawn, too."""
        drawn_B = draw(logits_BV, knobs, jax.vmap(jax.random.fold_in)(keys_B, position_B), config.n_vocab)
        return tokens_BS.at[rows_B, position_B].set(drawn_B), drawn_B

    # The first token comes from the prefill, each next one from a decoding step in the loop.
    logits_BV, cache = model.prefill(params, tokens_BT, length_B, config, total)
    tokens_BS = jnp.pad(tokens_BT, ((0, 0), (0, total - width)))
    tokens_BS, drawn_B = append(tokens_BS, logits_BV, length_B)
    start = SamplingState(tokens_BS, length_B, (drawn_B == stop_token) | (length_B >= last_B), cache)

    def body(state: SamplingState) -> SamplingState:
        newest_B = state.tokens_BS[rows_B, state.position_B]
        logits_BV, cache = model.decode_step(params, newest_B, state.position_B, state.cache, config)
        # A row that is done stays where it is, and writes again what stands there.
        position_B = jnp.where(state.done_B, state.position_B, state.position_B + 1)
        appended_BS, drawn_B = append(state.tokens_BS, logits_BV, position_B)
        tokens_BS = jnp.where(state.done_B[:, None], state.tokens_BS, appended_BS)
        done_B = state.done_B | (drawn_B == stop_token) | (position_B >= last_B)
        return SamplingState(tokens_BS, position_B, done_B, cache)

    end = jax.lax.while_loop(lambda state: ~jnp.all(state.done_B), body, start)
    stopped_B = end.tokens_BS[rows_B, end.position_B] == stop_token
    return end.tokens_BS, end.position_B, stopped_B
