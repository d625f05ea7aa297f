"""Continuous batching: a fixed number of slots that decode together, each at its own place in a text of its own.

Four programs, each compiled once for every length of the cache and never again: :func:`read` takes a piece of a prompt
into one slot's cache, :func:`join` gives the slot to the text and draws its first token, :func:`step` draws one more in
every slot that writes, :func:`resize` makes the caches longer when a text needs it and shorter when none does. What is
drawn for a text is a function of its own seed, sample index and tokens, as in :mod:`gpt2jax.generate.engine`.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.generate.engine import Rows, draw_at, log_probs, pin_cache
from gpt2jax.generate.filters import History
from gpt2jax.model import Cache
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """All that a slot carries beside its cache."""

    rows: Rows
    newest_B: jax.Array
    """int32: the newest token, whose key and value are not in the cache yet."""
    position_B: jax.Array
    """int32: where it stands."""
    done_B: jax.Array
    """bool: free, or being read into."""
    history: History


class Drawn(NamedTuple):
    """What one step drew; of slots that are done nothing is to be read."""

    token_B: jax.Array
    """int32."""
    log_prob_B: jax.Array
    """float32, of the model alone."""
    top_token_BN: jax.Array
    """int32: the most probable tokens; zeros unless somebody asked for them."""
    top_log_prob_BN: jax.Array
    """float32."""
    done_B: jax.Array
    """bool: the text has ended, or there was none."""


def empty(rows: Rows, history: History) -> Slots:
    """Slots that are free.

    Args:
        rows: any settings, one row for each slot.
    """
    zero_B = jnp.zeros(rows.index_B.shape, jnp.int32)
    return Slots(rows, zero_B, jnp.zeros_like(zero_B), jnp.ones(zero_B.shape, bool), history)


@functools.partial(jax.jit, static_argnames=("config", "place"), donate_argnames="cache")
def read(
    params: Params,
    cache: Cache,
    tokens_1C: jax.Array,
    slot: jax.Array,
    at: jax.Array,
    last: jax.Array,
    *,
    config: ModelConfig,
    place: Partition | None = None,
) -> tuple[jax.Array, Cache]:
    """Read a piece of a prompt into the cache of ``slot``.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        cache: of all slots; donated.
        tokens_1C: int32, filled up on the right with any token. All C must fit between ``at`` and the cache's end:
            what is filled up is written too, and overwritten before anybody sees it.
        slot: int32.
        at: int32 position of the first of them.
        last: int32: which of them is the last of the prompt.

    Returns:
        Logits [1, V] (float32) for the token after the one at ``last``, and the cache.
    """
    own = [{name: jax.lax.dynamic_slice_in_dim(layer[name], slot, 1, 0) for name in layer} for layer in cache]
    x_1CD, own = model.read_on(params, tokens_1C, at[None], own, config)
    x_11D = jax.lax.dynamic_slice_in_dim(x_1CD, last, 1, 1)
    cache = [
        {name: jax.lax.dynamic_update_slice_in_dim(layer[name], new[name], slot, 0) for name in layer}
        for layer, new in zip(cache, own, strict=True)
    ]
    return model.head(params, x_11D, config)[:, 0], pin_cache(cache, place)


@functools.partial(jax.jit, static_argnames=("config", "alternatives"), donate_argnames="slots")
def join(
    slots: Slots,
    slot: jax.Array,
    row: Rows,
    history: History,
    logits_1V: jax.Array,
    wanted: jax.Array,
    *,
    config: ModelConfig,
    alternatives: int,
) -> tuple[Slots, Drawn]:
    """Give ``slot`` to the text whose prompt has been read, and draw its first token; both of one row.

    Args:
        slots: donated.
        logits_1V: from :func:`read` of the prompt's end.
        wanted: bool: whether the most probable tokens are asked for.
    """
    one = Slots(row, jnp.zeros_like(row.first_B), row.first_B - 1, row.first_B >= row.limit_B, history)
    one, drawn = _draw(one, logits_1V, wanted, config, alternatives)
    joined = jax.tree.map(lambda all_B, own_1: jax.lax.dynamic_update_slice_in_dim(all_B, own_1, slot, 0), slots, one)
    return joined, drawn


@functools.partial(jax.jit, static_argnames=("config", "alternatives", "place"), donate_argnames=("slots", "cache"))
def step(
    params: Params,
    slots: Slots,
    cache: Cache,
    unread_B: jax.Array,
    wanted: jax.Array,
    *,
    config: ModelConfig,
    alternatives: int,
    place: Partition | None = None,
) -> tuple[Slots, Cache, Drawn]:
    """Draw one more token in every slot that writes.

    Args:
        slots: donated, as ``cache`` is.
        unread_B: int32: in a slot that is being read into, the position that is read next. Slots that write nothing
            are computed all the same, and leave what they compute there, where reading overwrites it.
        wanted: bool: whether anybody asks for the most probable tokens.
    """
    position_B = jnp.where(slots.done_B, unread_B, slots.position_B)
    logits_BV, cache = model.decode_step(params, slots.newest_B, position_B, cache, config)
    slots, drawn = _draw(slots, logits_BV, wanted, config, alternatives)
    return slots, pin_cache(cache, place), drawn


@functools.partial(jax.jit, donate_argnames="slots")
def release(slots: Slots, slot: jax.Array) -> Slots:
    """End the text of ``slot``, whatever it has written. ``slots`` are donated."""
    return dataclasses.replace(slots, done_B=slots.done_B.at[slot].set(True))


@functools.partial(jax.jit, static_argnames=("length", "place"))
def resize(cache: Cache, length: int, place: Partition | None = None) -> Cache:
    """Caches of ``length`` positions: cut, or filled up with zeros, at the end."""

    def one(leaf_BHSK: jax.Array) -> jax.Array:
        more = max(length - leaf_BHSK.shape[2], 0)
        return jnp.pad(leaf_BHSK[:, :, :length], ((0, 0), (0, 0), (0, more), (0, 0)))

    return pin_cache(jax.tree.map(one, cache), place)


def _draw(
    slots: Slots, logits_BV: jax.Array, wanted: jax.Array, config: ModelConfig, alternatives: int
) -> tuple[Slots, Drawn]:
    rows, active_B = slots.rows, ~slots.done_B
    position_B = slots.position_B + active_B.astype(jnp.int32)
    token_B = draw_at(rows, slots.history, logits_BV, position_B, config)
    log_prob_B, _, _ = log_probs(logits_BV, token_B, 0, config)

    def top(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
        return log_probs(logits_BV, token_B, alternatives, config)[1:]

    def none(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (logits_BV.shape[0], alternatives)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    # Sorting a vocabulary takes as long as a small model: only for those who ask.
    top_token_BN, top_log_prob_BN = jax.lax.cond(wanted, top, none, logits_BV)
    stopped_B = jnp.any(token_B[:, None] == rows.stop_BM, axis=1)
    done_B = slots.done_B | stopped_B | (position_B + 1 >= rows.limit_B)
    slots = dataclasses.replace(
        slots,
        newest_B=jnp.where(active_B, token_B, slots.newest_B),
        position_B=position_B,
        done_B=done_B,
        history=slots.history.add(token_B, active_B),
    )
    return slots, Drawn(token_B, log_prob_B, top_token_BN, top_log_prob_BN, done_B)
