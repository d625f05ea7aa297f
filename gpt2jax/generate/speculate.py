"""Speculative decoding: a small model drafts a few tokens, the large one reads them all at once.

A row keeps the drafted tokens that are those which it would have drawn itself, and then its own token (Leviathan et
al. 2023 and Chen et al. 2023, who accept at random). Here the draft draws with the very key that the row's own draw at
that position has: both take the largest of their logits plus the same noise, so that similar models mostly agree, and
what is written is token for token what is written without a draft, greedy or not (to float rounding of the logits).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import SamplingState, append, draw_at, pin, pin_cache, token_at
from gpt2jax.generate.filters import History
from gpt2jax.model import Cache
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition


@dataclasses.dataclass(frozen=True)
class Draft:
    """A smaller model of the same vocabulary."""

    params: Params
    """From :func:`gpt2jax.generate.engine.decoding_params`."""
    config: ModelConfig
    tokens: int = 4
    """Drafted at a time."""

    def check(self, config: ModelConfig) -> None:
        """Refuse to draft for a model that this one does not fit.

        Raises:
            GPT2JaxError: naming the vocabulary, the context or the number of tokens.
        """
        if self.config.n_vocab != config.n_vocab:
            raise GPT2JaxError(f"draft: a vocabulary of {self.config.n_vocab:,}: the model's is {config.n_vocab:,}")
        if self.config.n_ctx < config.n_ctx:
            raise GPT2JaxError(f"draft: a context of {self.config.n_ctx}: should be the model's, {config.n_ctx}")
        most = min(16, config.n_ctx - 2)
        if not 1 <= self.tokens <= most:
            raise GPT2JaxError(f"draft_tokens: {self.tokens}: should be 1 to {most}")


@functools.partial(jax.jit, static_argnames=("config", "total", "place"))
def start_draft(
    params: Params,
    tokens_PT: jax.Array,
    length_P: jax.Array,
    prompt_B: jax.Array,
    *,
    config: ModelConfig,
    total: int,
    place: Partition | None = None,
) -> Cache:
    """The draft's cache of the prompts; arguments as of :func:`gpt2jax.generate.engine.start`."""
    _, cache = model.prefill(params, tokens_PT, length_P, config, total)
    return pin_cache(jax.tree.map(lambda leaf: leaf[prompt_B], cache), place)


@functools.partial(
    jax.jit,
    static_argnames=("config", "draft_config", "draft_tokens", "place"),
    donate_argnames=("state", "draft_cache"),
)
def speculate(
    params: Params,
    draft_params: Params,
    state: SamplingState,
    draft_cache: Cache,
    rounds: jax.Array,
    *,
    config: ModelConfig,
    draft_config: ModelConfig,
    draft_tokens: int,
    place: Partition | None = None,
) -> tuple[SamplingState, Cache, jax.Array]:
    """Up to ``rounds`` (traced int32) of drafting and reading; each adds 1 to ``draft_tokens`` + 1 tokens to a row.

    Returns:
        The state, the draft's cache, and how many rounds it took. ``state`` and ``draft_cache`` are donated.
    """
    width = draft_tokens + 1
    rows = state.rows

    def body(carry: tuple[jax.Array, SamplingState, Cache]) -> tuple[jax.Array, SamplingState, Cache]:
        count, state, draft_cache = carry
        # At the end of the room the window begins earlier, with tokens that have been read before.
        first_B = jnp.minimum(state.position_B, state.tokens_BS.shape[1] - width)
        tokens_BT = jnp.zeros((first_B.size, width), jnp.int32).at[:, 0].set(token_at(state.tokens_BS, first_B))

        # It stays a loop: unrolled, a program takes longer to compile and no less to run.
        def draft(offset: jax.Array, carry: tuple[jax.Array, History, Cache]) -> tuple[jax.Array, History, Cache]:
            tokens_BT, history, draft_cache = carry
            position_B = first_B + offset
            token_B = jax.lax.dynamic_index_in_dim(tokens_BT, offset, axis=1, keepdims=False)
            logits_BV, draft_cache = model.decode_step(draft_params, token_B, position_B, draft_cache, draft_config)
            drafted_B = draw_at(rows, history, logits_BV, position_B + 1, config)
            known_B = position_B + 1 <= state.position_B
            token_B = jnp.where(known_B, token_at(state.tokens_BS, position_B + 1), drafted_B)
            tokens_BT = jax.lax.dynamic_update_index_in_dim(tokens_BT, token_B, offset + 1, axis=1)
            return tokens_BT, history.add(drafted_B, ~known_B), draft_cache

        tokens_BT, _, draft_cache = jax.lax.fori_loop(0, draft_tokens, draft, (tokens_BT, state.history, draft_cache))
        # The last one is read for its place in the cache alone.
        last_B = first_B + draft_tokens
        _, draft_cache = model.decode_step(draft_params, tokens_BT[:, -1], last_B, draft_cache, draft_config)
        logits_BTV, cache = model.decode_steps(params, tokens_BT, first_B, state.cache, config)
        state = dataclasses.replace(state, cache=cache)
        for offset in range(width):
            # The row's newest token is the one that was read here, or this draft went another way before.
            here_B = state.position_B == first_B + offset
            same_B = here_B & (token_at(state.tokens_BS, state.position_B) == tokens_BT[:, offset])
            state = append(state, logits_BTV[:, offset], same_B & ~state.done_B, config)
        return count + 1, pin(state, place), pin_cache(draft_cache, place)

    def unfinished(carry: tuple[jax.Array, SamplingState, Cache]) -> jax.Array:
        return (carry[0] < rounds) & ~jnp.all(carry[1].done_B)

    count, state, draft_cache = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state, draft_cache))
    return pin(state, place), pin_cache(draft_cache, place), count
