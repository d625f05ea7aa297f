"""From logits to a token.

The order of operations, each step on what the one before it left:

1. repetition penalty on tokens of the prompt and of the text so far (Keskar et al. 2019, section 4.1),
2. presence and frequency penalties on tokens of the text so far,
3. logit bias, in which bans are infinite; below the minimum length every stop token is banned,
4. temperature; a temperature of 0 takes the most probable token and ends here,
5. top-k, 6. top-p, 7. min-p,
8. the draw.

Steps 4 to 6 are those of openai/gpt-2 (src/sample.py), in its order.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

NEVER = jnp.finfo(jnp.float32).min


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Knobs:
    """How each row draws. All traced: other values compile nothing."""

    temperature_B: jax.Array
    """float32; 0 takes the most probable token."""
    top_k_B: jax.Array
    """int32; 0 is off."""
    top_p_B: jax.Array
    """float32; 1 is off."""
    openai_top_p_B: jax.Array
    """bool: leave out the token that crosses top_p, as OpenAI's released code does."""
    min_p_B: jax.Array
    """float32; 0 is off."""
    repetition_B: jax.Array
    """float32; 1 is off."""
    presence_B: jax.Array
    """float32; 0 is off."""
    frequency_B: jax.Array
    """float32; 0 is off."""
    min_new_B: jax.Array
    """int32: drawn tokens before a stop token may be drawn."""
    bias_BV: jax.Array
    """float32, added to the logits; -inf bans."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """What each row has of each token."""

    in_prompt_BV: jax.Array
    """bool."""
    drawn_BV: jax.Array
    """int32: how often it was drawn."""

    def add(self, token_B: jax.Array, active_B: jax.Array) -> "History":
        """With one more token in the rows that are ``active_B``."""
        rows_B = jnp.arange(token_B.shape[0])
        return dataclasses.replace(self, drawn_BV=self.drawn_BV.at[rows_B, token_B].add(active_B.astype(jnp.int32)))


def adjust_logits(
    logits_BV: jax.Array, knobs: Knobs, history: History, stop_BM: jax.Array, new_B: jax.Array, n_vocab: int
) -> jax.Array:
    """Steps 1 to 3: the logits that a temperature of 0 takes the largest of.

    Args:
        logits_BV: float32 as the model gives them; entries from ``n_vocab`` on pad the vocabulary, and end as NEVER.
        stop_BM: int32 stop tokens of each row, filled up with -1.
        new_B: int32: how many tokens each row has drawn.
    """
    penalised = jnp.any((knobs.repetition_B != 1.0) | (knobs.presence_B != 0.0) | (knobs.frequency_B != 0.0))
    logits_BV = jax.lax.cond(penalised, _penalise, lambda logits_BV, *_: logits_BV, logits_BV, knobs, history)
    logits_BV = logits_BV + knobs.bias_BV
    tokens_V = jnp.arange(logits_BV.shape[-1])
    too_short_B = new_B < knobs.min_new_B
    stops_BV = jnp.any(stop_BM[:, :, None] == tokens_V[None, None, :], axis=1)
    banned_BV = (too_short_B[:, None] & stops_BV) | (tokens_V >= n_vocab)[None]
    # Not -inf: a row whose every token is banned must still not be NaN.
    return jnp.where(banned_BV, NEVER, jnp.maximum(logits_BV, NEVER))


def _penalise(logits_BV: jax.Array, knobs: Knobs, history: History) -> jax.Array:
    drawn_BV = history.drawn_BV
    seen_BV = history.in_prompt_BV | (drawn_BV > 0)
    repetition_B1 = knobs.repetition_B[:, None]
    weakened_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, weakened_BV, logits_BV)
    logits_BV = logits_BV - knobs.presence_B[:, None] * (drawn_BV > 0).astype(jnp.float32)
    return logits_BV - knobs.frequency_B[:, None] * drawn_BV.astype(jnp.float32)


def filter_logits(logits_BV: jax.Array, knobs: Knobs) -> jax.Array:
    """Steps 4 to 7: logits over temperature, every token that is excluded at float32's lowest number.

    Every cut is at a value: tokens that tie with the last one kept are kept. Top-p (Holtzman et al. 2020) keeps the
    fewest most probable tokens that hold at least ``top_p`` (of what top-k left); OpenAI's rule keeps those that
    hold at most ``top_p``. Min-p (Nguyen et al. 2024) keeps tokens at least ``min_p`` times as probable as the most
    probable one. Each keeps one token at least.

    Args:
        logits_BV: float32.
    """
    cold_B = knobs.temperature_B <= 0.0
    # Below the largest logit, whatever its size: so that the coldest division leaves that one finite.
    below_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
    scaled_BV = jnp.maximum(below_BV / jnp.where(cold_B, 1.0, knobs.temperature_B)[:, None], NEVER)
    # A hot division must not bring a banned token back.
    scaled_BV = jnp.where(logits_BV <= NEVER, NEVER, scaled_BV)
    # Each cut costs more than the rest of sampling: only when somebody asked for it.
    for asked, cut in ((knobs.top_k_B > 0, _top_k), (knobs.top_p_B < 1.0, _top_p)):
        scaled_BV = jax.lax.cond(jnp.any(asked), cut, lambda logits_BV, _: logits_BV, scaled_BV, knobs)
    largest_B1 = jnp.max(scaled_BV, axis=-1, keepdims=True)
    # p >= min_p * p_max is a difference of logits; without min-p it is minus infinity.
    return jnp.where(scaled_BV >= largest_B1 + jnp.log(knobs.min_p_B)[:, None], scaled_BV, NEVER)


def _top_k(logits_BV: jax.Array, knobs: Knobs) -> jax.Array:
    """Step 5 of logits whose largest is 0."""
    depth_BV = _depth(logits_BV)
    k_B = jnp.where(knobs.top_k_B > 0, knobs.top_k_B, logits_BV.shape[-1])

    def too_shallow(bound_B: jax.Array) -> jax.Array:
        return jnp.sum(depth_BV <= bound_B[:, None], axis=-1) < k_B

    return jnp.where(depth_BV <= _deepest(too_shallow, k_B)[:, None], logits_BV, NEVER)


def _top_p(logits_BV: jax.Array, knobs: Knobs) -> jax.Array:
    """Step 6 of logits whose largest is 0."""
    depth_BV, mass_BV = _depth(logits_BV), jnp.exp(logits_BV)
    p_B = knobs.top_p_B * jnp.sum(mass_BV, axis=-1)

    def held(kept_BV: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(kept_BV, mass_BV, 0.0), axis=-1)

    def too_shallow(bound_B: jax.Array) -> jax.Array:
        held_B = held(depth_BV <= bound_B[:, None])
        return jnp.where(knobs.openai_top_p_B, held_B <= p_B, held_B < p_B)

    crossing_B = _deepest(too_shallow, knobs.top_k_B)
    before_BV, at_BV = depth_BV < crossing_B[:, None], depth_BV == crossing_B[:, None]
    # By OpenAI's rule the tokens that cross p are out, unless they tie and the first of them still fits.
    one_B = jnp.exp(-jax.lax.bitcast_convert_type(crossing_B, jnp.float32))
    fits_B = ~knobs.openai_top_p_B | (held(before_BV) + one_B <= p_B)
    kept_BV = before_BV | (at_BV & fits_B[:, None]) | (depth_BV == 0) | (knobs.top_p_B >= 1.0)[:, None]
    return jnp.where(kept_BV, logits_BV, NEVER)


def _depth(logits_BV: jax.Array) -> jax.Array:
    """How far below 0 each logit is, as an int32 that is ordered as the distance: the bits of a positive float are."""
    return jax.lax.bitcast_convert_type(jnp.abs(logits_BV), jnp.int32)


def _deepest(too_shallow: Callable[[jax.Array], jax.Array], like_B: jax.Array) -> jax.Array:
    """The least depth [B] that is not too shallow, bit by bit from the highest: 31 looks at the vocabulary take a
    tenth of the time of sorting it."""

    def look(number: jax.Array, depth_B: jax.Array) -> jax.Array:
        bit = jnp.left_shift(jnp.int32(1), 30 - number)
        return jnp.where(too_shallow(depth_B + bit - 1), depth_B + bit, depth_B)

    return jax.lax.fori_loop(0, 31, look, jnp.zeros(like_B.shape, jnp.int32))


def draw(logits_BV: jax.Array, knobs: Knobs, keys_B: jax.Array) -> jax.Array:
    """Step 8: one token per row, int32 [B], each row by its own key.

    Args:
        logits_BV: from :func:`adjust_logits`.
    """
    cold_B = knobs.temperature_B <= 0.0
    greedy_B = most_probable(logits_BV)

    def sample(logits_BV: jax.Array) -> jax.Array:
        drawn_B = _categorical(keys_B, filter_logits(logits_BV, knobs))
        return jnp.where(cold_B, greedy_B, drawn_B)

    token_B = jax.lax.cond(jnp.all(cold_B), lambda _: greedy_B, sample, logits_BV)
    return token_B.astype(jnp.int32)


# Tokens are drawn by groups: as many as the padded vocabulary, and a mesh that it lies on, can be divided by.
GROUPS = 128


def most_probable(logits_BV: jax.Array) -> jax.Array:
    """``argmax`` of each row; on a CPU, which takes maxima seven times as fast, of groups and then within one."""

    def by_groups(logits_BV: jax.Array) -> jax.Array:
        logits_BGW = logits_BV.reshape(logits_BV.shape[0], GROUPS, -1)
        group_B = jnp.argmax(jnp.max(logits_BGW, axis=-1), axis=-1)
        own_BW = jnp.take_along_axis(logits_BGW, group_B[:, None, None], axis=1)[:, 0]
        return group_B * logits_BGW.shape[-1] + jnp.argmax(own_BW, axis=-1)

    def at_once(logits_BV: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BV, axis=-1)

    if logits_BV.shape[-1] % GROUPS:
        return at_once(logits_BV)
    return jax.lax.platform_dependent(logits_BV, cpu=by_groups, default=at_once)


def _categorical(keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """A token [B] of each row, with the probabilities that its logits stand for.

    Twice the largest of logits with Gumbel noise: a group of tokens by what all of it weighs, then a token in it. So a
    row takes a random number for each group and each token of one, and not for every token of the vocabulary, which on
    a CPU takes half as long as the model. Two models that weigh tokens alike still draw alike with the same key.
    """
    logits_BV = jnp.pad(logits_BV, ((0, 0), (0, -logits_BV.shape[-1] % GROUPS)), constant_values=NEVER)
    logits_BGW = logits_BV.reshape(logits_BV.shape[0], GROUPS, -1)
    keys_BN = jax.vmap(jax.random.split)(keys_B)
    group_B = jax.vmap(jax.random.categorical)(keys_BN[:, 0], jax.nn.logsumexp(logits_BGW, axis=-1))
    own_BW = jnp.take_along_axis(logits_BGW, group_B[:, None, None], axis=1)[:, 0]
    return group_B * logits_BGW.shape[-1] + jax.vmap(jax.random.categorical)(keys_BN[:, 1], own_BW)
