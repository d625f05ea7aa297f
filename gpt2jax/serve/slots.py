"""Continuous batching: slots that decode together, each at its own place in a text of its own.

A prompt is read piece by piece (:func:`read`) into a cache of its own; its first token is drawn (:func:`draw`); then
text and cache are put into a slot (:func:`put`), where they take part in each step: :func:`decode` for the logits of
all slots, :func:`draw` for the tokens. :func:`resize` gives all of them other slots or longer caches. Each is compiled
once for each shape and never again. What is drawn for a text is a function of its own seed, sample index and tokens, as
in :mod:`gpt2jax.generate.engine`.
"""

import dataclasses
import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.generate.engine import Rows, draw_at, log_probs
from gpt2jax.generate.filters import History
from gpt2jax.model import Cache
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition

T = TypeVar("T")


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
    """bool: free."""
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


def new(rows: Rows, history: History) -> Slots:
    """Slots of texts whose prompts have been read, before their first token is drawn; free where the rows' limit
    leaves no room for one."""
    return Slots(rows, jnp.zeros_like(rows.first_B), rows.first_B - 1, rows.first_B >= rows.limit_B, history)


def pin(tree: T, place: Partition | None, heads: str | None = None) -> T:
    """Rows over the mesh's data axes, a single one on all of them: the same going in as coming out of each program.

    Args:
        heads: the logical axis of each leaf's second dimension.
    """
    if place is None:
        return tree

    def one(leaf: jax.Array) -> jax.Array:
        axes = ["batch" if leaf.shape[0] > 1 else None, heads, *[None] * leaf.ndim]
        return place.constrain(leaf, *axes[: leaf.ndim])

    return jax.tree.map(one, tree)


def pin_cache(cache: Cache, place: Partition | None) -> Cache:
    return pin(cache, place, "heads")


@functools.partial(jax.jit, static_argnames=("config", "rows", "length", "place"))
def empty_cache(config: ModelConfig, rows: int, length: int, place: Partition | None = None) -> Cache:
    """Caches of ``rows`` texts with room for ``length`` tokens."""
    zeros_BHSK = jnp.zeros((rows, config.n_head, length, config.head_dim), model.compute_dtype(config))
    return pin_cache([dict.fromkeys(("k", "v"), zeros_BHSK) for _ in range(config.n_layer)], place)


@functools.partial(jax.jit, static_argnames=("config", "place"), donate_argnames="cache")
def read(
    params: Params,
    cache: Cache,
    tokens_1C: jax.Array,
    at: jax.Array,
    last: jax.Array,
    *,
    config: ModelConfig,
    place: Partition | None = None,
) -> tuple[jax.Array, Cache]:
    """Read a piece of a prompt.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        cache: of one row; donated.
        tokens_1C: int32, filled up on the right with any token. All C must fit between ``at`` and the cache's end:
            what is filled up is written too, and overwritten before anybody sees it.
        at: int32 position of the first of them.
        last: int32: which of them is the last of the prompt.

    Returns:
        Logits [1, V] (float32) for the token after the one at ``last``, and the cache.
    """
    x_1CD, cache = model.read_on(params, tokens_1C, at[None], cache, config)
    x_11D = jax.lax.dynamic_slice_in_dim(x_1CD, last, 1, 1)
    return model.head(params, x_11D, config)[:, 0], pin_cache(cache, place)


@functools.partial(jax.jit, static_argnames=("config", "place"), donate_argnames="cache")
def decode(
    params: Params, slots: Slots, cache: Cache, *, config: ModelConfig, place: Partition | None = None
) -> tuple[jax.Array, Cache]:
    """Logits [B, V] (float32) for the next token of every slot, and the cache, which is donated.

    Slots that are free are computed all the same, at their first position: what they leave there is overwritten when a
    text comes.
    """
    position_B = jnp.where(slots.done_B, 0, slots.position_B)
    logits_BV, cache = model.decode_step(params, slots.newest_B, position_B, cache, config)
    return logits_BV, pin_cache(cache, place)


@functools.partial(jax.jit, static_argnames=("config", "alternatives", "place"), donate_argnames="slots")
def draw(
    slots: Slots,
    logits_BV: jax.Array,
    wanted: jax.Array,
    *,
    config: ModelConfig,
    alternatives: int,
    place: Partition | None = None,
) -> tuple[Slots, Drawn]:
    """Draw the next token of every slot that is not free.

    Args:
        slots: donated.
        logits_BV: from :func:`decode`, or for one slot from :func:`read` of its prompt's end.
        wanted: bool: whether anybody asks for the most probable tokens.
    """
    rows, active_B = slots.rows, ~slots.done_B
    position_B = slots.position_B + active_B.astype(jnp.int32)
    token_B = draw_at(rows, slots.history, logits_BV, position_B, config)
    log_prob_B, _, _ = log_probs(logits_BV, token_B, 0, config)

    def top(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
        return log_probs(logits_BV, token_B, alternatives, config)[1:]

    def none(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (logits_BV.shape[0], alternatives)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    # Only for those who ask: for a small model it is a good part of the step.
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
    return pin(slots, place), Drawn(token_B, log_prob_B, top_token_BN, top_log_prob_BN, done_B)


def put(
    slots: Slots, cache: Cache, slot: jax.Array, one: Slots, own: Cache, place: Partition | None = None
) -> tuple[Slots, Cache]:
    """Give ``slot`` (int32) to the text of ``one``, with its ``own`` cache, at most as long as the others.

    ``slots`` and ``cache`` are donated.
    """
    # Leaf by leaf, as in resize: they are alike, and so there is one small program for all of them.
    slots = jax.tree.map(lambda all_B, own_1: _put(all_B, own_1, slot, None, place), slots, one)
    return slots, jax.tree.map(lambda all_B, own_1: _put(all_B, own_1, slot, "heads", place), cache, own)


@functools.partial(jax.jit, static_argnames=("heads", "place"), donate_argnames="all_B")
def _put(all_B: jax.Array, own_1: jax.Array, slot: jax.Array, heads: str | None, place: Partition | None) -> jax.Array:
    put_B = jax.lax.dynamic_update_slice(all_B, own_1, (slot, *[jnp.int32(0)] * (all_B.ndim - 1)))
    return pin(put_B, place, heads)


@functools.partial(jax.jit, static_argnames="place", donate_argnames="slots")
def release(slots: Slots, slot: jax.Array, place: Partition | None = None) -> Slots:
    """End the text of ``slot``, whatever it has written. ``slots`` are donated."""
    return pin(dataclasses.replace(slots, done_B=slots.done_B.at[slot].set(True)), place)


@functools.partial(jax.jit, static_argnames="place")
def choose(slots: Slots, from_B: jax.Array, free_B: jax.Array, place: Partition | None = None) -> Slots:
    """Other slots: each the one of ``from_B`` (int32), and free where ``free_B`` says so."""
    chosen = jax.tree.map(lambda leaf: leaf[from_B], slots)
    return pin(dataclasses.replace(chosen, done_B=chosen.done_B | free_B), place)


def resize(cache: Cache, from_B: jax.Array, length: int, place: Partition | None = None) -> Cache:
    """Caches of ``length`` positions, cut or filled up with zeros at the end: each row that of ``from_B`` (int32)."""
    return jax.tree.map(lambda leaf: _resize(leaf, from_B, length, place), cache)


@functools.partial(jax.jit, static_argnames=("length", "place"))
def _resize(leaf_BHSK: jax.Array, from_B: jax.Array, length: int, place: Partition | None) -> jax.Array:
    more = max(length - leaf_BHSK.shape[2], 0)
    chosen_BHSK = jnp.pad(leaf_BHSK[from_B, :, :length], ((0, 0), (0, 0), (0, more), (0, 0)))
    return pin(chosen_BHSK, place, "heads")
