"""The jitted engine: a batch of prompts in, tokens out, in two programs.

:func:`start` reads the prompts and draws the first tokens; :func:`advance` draws more, in one ``lax.while_loop`` that
ends when every row is done or a number of tokens has been drawn. A caller who wants to see the text as it comes, or to
stop at a string, calls it again and again; one who does not, once. Both give the same tokens.

A program is compiled for each (rows, prompt bucket, total bucket); everything else is traced.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from gpt2jax import model, parameters
from gpt2jax.config import ModelConfig
from gpt2jax.generate.filters import History, Knobs, adjust_logits, draw
from gpt2jax.model import Cache
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition, one_device
from gpt2jax.weights.arrays import DType


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What is asked of each row; fixed while it is written."""

    knobs: Knobs
    seed_B: jax.Array
    """uint32."""
    index_B: jax.Array
    """int32 sample index: rows of the same seed and prompt differ by it."""
    offset_B: jax.Array
    """int32: tokens of the text that came before what the row holds (they slid out of the context)."""
    before_B: jax.Array
    """int32: tokens that the row had drawn before its prompt was read (again)."""
    first_B: jax.Array
    """int32: position of the first token to draw, the length of the prompt."""
    limit_B: jax.Array
    """int32: position past the last token to draw, at most the context."""
    stop_BM: jax.Array
    """int32 tokens that end the row, filled up with -1."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplingState:
    """What the loop carries."""

    rows: Rows
    tokens_BS: jax.Array
    """int32: prompts, then what was drawn."""
    position_B: jax.Array
    """int32: where each row's newest token stands."""
    done_B: jax.Array
    """bool."""
    history: History
    log_prob_BS: jax.Array
    """float32: of each drawn token, under the model alone (no penalty, temperature or cut)."""
    top_token_BSN: jax.Array
    """int32: the N most probable tokens at each drawn position, under the model alone."""
    top_log_prob_BSN: jax.Array
    """float32."""
    cache: Cache
    """Keys and values of every position before the newest token's."""


def decoding_dtype(config: ModelConfig) -> Callable[[Parameter], DType]:
    """The dtype that the engine wants each parameter in: everything that only enters matrix products in the compute
    dtype, cast once and not at every token; the rest in float32."""
    products = cast(DType, model.compute_dtype(config).name)
    return lambda parameter: products if parameter.path == "wte" or "/c_" in parameter.path else "float32"


def turns_kernels(config: ModelConfig, place: Partition | None) -> bool:
    """Whether the engine wants kernels with their outputs first (:func:`gpt2jax.ops.turned_product`): in float32 on one
    CPU."""
    return one_device(place) and jax.default_backend() == "cpu" and model.compute_dtype(config) == jnp.float32


def decoding_params(params: Params, config: ModelConfig, place: Partition | None = None) -> Params:
    """Parameters as the engine wants them: a list of blocks, each in its :func:`decoding_dtype`.

    Args:
        place: the mesh that they are on; None: one device.
    """
    dtype = parameters.tree(decoding_dtype(config))
    params = jax.tree.map(lambda leaf, to: leaf.astype(to), params, dtype)
    return parameters.unstack(parameters.turn(params) if turns_kernels(config, place) else params, config)


@functools.partial(jax.jit, static_argnames=("config", "total", "alternatives", "place"))
def start(
    params: Params,
    tokens_PT: jax.Array,
    length_P: jax.Array,
    prompt_B: jax.Array,
    rows: Rows,
    history: History,
    *,
    config: ModelConfig,
    total: int,
    alternatives: int = 0,
    place: Partition | None = None,
) -> SamplingState:
    """Read prompts and draw each row's first token.

    A drawn token is a function of (seed, sample index, its position in the text) and the text before it: the rest of
    the batch, its size, order and padding change nothing (to float rounding of the logits).

    Args:
        params: from :func:`decoding_params`.
        tokens_PT: int32 prompts, padded on the right.
        length_P: int32 lengths of the prompts, at least 1 and below the context.
        prompt_B: int32: which prompt each row continues. Rows of the same prompt share one reading of it.
        total: S, positions there is room for.
        alternatives: N, how many of the most probable tokens to note at each position.
    """
    batch, width = prompt_B.shape[0], tokens_PT.shape[1]
    logits_PV, cache = model.prefill(params, tokens_PT, length_P, config, total)
    state = SamplingState(
        rows=rows,
        tokens_BS=jnp.pad(tokens_PT[prompt_B], ((0, 0), (0, total - width))),
        position_B=rows.first_B - 1,
        done_B=rows.first_B >= rows.limit_B,
        history=history,
        log_prob_BS=jnp.zeros((batch, total), jnp.float32),
        top_token_BSN=jnp.zeros((batch, total, alternatives), jnp.int32),
        top_log_prob_BSN=jnp.zeros((batch, total, alternatives), jnp.float32),
        cache=jax.tree.map(lambda leaf: leaf[prompt_B], cache),
    )
    state = pin(state, place)
    return pin(append(state, logits_PV[prompt_B], ~state.done_B, config), place)


@functools.partial(jax.jit, static_argnames=("config", "place"), donate_argnames="state")
def advance(
    params: Params, state: SamplingState, steps: jax.Array, *, config: ModelConfig, place: Partition | None = None
) -> SamplingState:
    """Draw up to ``steps`` (traced int32) more tokens in every row that is not done. ``state`` is donated."""

    def body(carry: tuple[jax.Array, SamplingState]) -> tuple[jax.Array, SamplingState]:
        step, state = carry
        newest_B = token_at(state.tokens_BS, state.position_B)
        logits_BV, cache = model.decode_step(params, newest_B, state.position_B, state.cache, config)
        return step + 1, append(dataclasses.replace(state, cache=cache), logits_BV, ~state.done_B, config)

    def unfinished(carry: tuple[jax.Array, SamplingState]) -> jax.Array:
        return (carry[0] < steps) & ~jnp.all(carry[1].done_B)

    return pin(jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state))[1], place)


def pin(state: SamplingState, place: Partition | None) -> SamplingState:
    """All that has rows over the mesh's data axes, the cache's heads over ``tensor``: the same going in as coming
    out."""
    if place is None:
        return state

    def leading(leaf: jax.Array) -> jax.Array:
        return place.constrain(leaf, "batch", *[None] * (leaf.ndim - 1))

    rest = jax.tree.map(leading, dataclasses.replace(state, cache=[]))
    return dataclasses.replace(rest, cache=pin_cache(state.cache, place))


def pin_cache(cache: Cache, place: Partition | None) -> Cache:
    """Rows over the mesh's data axes, heads over ``tensor``."""
    if place is None:
        return cache
    return jax.tree.map(lambda leaf: place.constrain(leaf, "batch", "heads", None, None), cache)


def append(state: SamplingState, logits_BV: jax.Array, active_B: jax.Array, config: ModelConfig) -> SamplingState:
    """Draw the next token of the rows that are ``active_B`` from ``logits_BV``; the others stay as they are."""
    rows = state.rows
    position_B = state.position_B + active_B.astype(jnp.int32)
    drawn_B = draw_at(rows, state.history, logits_BV, position_B, config)
    at_BS = (jnp.arange(state.tokens_BS.shape[1])[None, :] == position_B[:, None]) & active_B[:, None]
    log_prob_B, top_token_BN, top_log_prob_BN = log_probs(logits_BV, drawn_B, state.top_token_BSN.shape[-1], config)
    stopped_B = jnp.any(drawn_B[:, None] == rows.stop_BM, axis=1)
    return dataclasses.replace(
        state,
        tokens_BS=jnp.where(at_BS, drawn_B[:, None], state.tokens_BS),
        position_B=position_B,
        done_B=state.done_B | (active_B & (stopped_B | (position_B + 1 >= rows.limit_B))),
        history=state.history.add(drawn_B, active_B),
        log_prob_BS=jnp.where(at_BS, log_prob_B[:, None], state.log_prob_BS),
        top_token_BSN=jnp.where(at_BS[:, :, None], top_token_BN[:, None], state.top_token_BSN),
        top_log_prob_BSN=jnp.where(at_BS[:, :, None], top_log_prob_BN[:, None], state.top_log_prob_BSN),
    )


def token_at(tokens_BS: jax.Array, position_B: jax.Array) -> jax.Array:
    """Each row's token at its own position."""
    return jnp.take_along_axis(tokens_BS, position_B[:, None], axis=1)[:, 0]


def draw_at(
    rows: Rows, history: History, logits_BV: jax.Array, position_B: jax.Array, config: ModelConfig
) -> jax.Array:
    """Tokens [B] (int32) for ``position_B``, by each row's knobs and the key of its position."""
    new_B = rows.before_B + position_B - rows.first_B
    adjusted_BV = adjust_logits(logits_BV, rows.knobs, history, rows.stop_BM, new_B, config.n_vocab)
    return draw(adjusted_BV, rows.knobs, _keys(rows, position_B))


def _keys(rows: Rows, position_B: jax.Array) -> jax.Array:
    """A key for every row, from its seed, its sample index and the position in the whole text."""

    def key(seed: jax.Array, index: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), position)

    return jax.vmap(key)(rows.seed_B, rows.index_B, rows.offset_B + position_B)


def log_probs(
    logits: jax.Array, wanted: jax.Array, count: int, config: ModelConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """From logits [..., V]: the log-probability of the token ``wanted`` [...], the ``count`` most probable ones
    [..., N] (int32), and theirs (float32)."""
    real_V = jnp.arange(logits.shape[-1]) < config.n_vocab
    logits = jnp.where(jnp.expand_dims(real_V, range(logits.ndim - 1)), logits, -jnp.inf)
    total = jax.nn.logsumexp(logits, axis=-1)
    log_prob = jnp.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0] - total
    top, token = jax.lax.top_k(logits, count)
    return log_prob, token.astype(jnp.int32), top - total[..., None]
