"""From logits to a token: temperature, then top-k, then top-p, then the draw (the order of openai/gpt-2, sample.py)."""

import dataclasses

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
    openai_top_p: jax.Array
    """bool scalar: leave out the token that crosses top_p, as OpenAI's released code does."""


def filter_logits(logits_BV: jax.Array, knobs: Knobs) -> jax.Array:
    """Logits over temperature, with every token that top-k and top-p exclude at float32's lowest number.

    Both cut at a value: tokens that tie with the last one kept are kept. Top-p (Holtzman et al. 2020) keeps the
    fewest most probable tokens that hold at least ``top_p`` (of what top-k left); OpenAI's rule keeps those that
    hold at most ``top_p``. Either keeps one token at least.

    Args:
        logits_BV: float32.
    """
    cold_B = knobs.temperature_B <= 0.0
    scaled_BV = logits_BV / jnp.where(cold_B, 1.0, knobs.temperature_B)[:, None]
    restricted = jnp.any((knobs.top_k_B > 0) | (knobs.top_p_B < 1.0))
    # Sorting the vocabulary costs more than the rest of sampling: only when somebody asked for it.
    return jax.lax.cond(restricted, _restrict, lambda logits_BV, _: logits_BV, scaled_BV, knobs)


def _restrict(logits_BV: jax.Array, knobs: Knobs) -> jax.Array:
    size = logits_BV.shape[-1]
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)

    k_B = jnp.where(knobs.top_k_B > 0, jnp.minimum(knobs.top_k_B, size), size)
    kth_B1 = jnp.take_along_axis(sorted_BV, (k_B - 1)[:, None], axis=-1)
    # By value rather than by rank, so that ties at the cut are the same here and in what is returned.
    kept_BV = jnp.where(sorted_BV >= kth_B1, sorted_BV, NEVER)

    probability_BV = jax.nn.softmax(kept_BV, axis=-1)
    mass_BV = jnp.cumsum(probability_BV, axis=-1)
    p_B1 = knobs.top_p_B[:, None]
    standard_B = jnp.sum(mass_BV - probability_BV < p_B1, axis=-1)  # Mass before the token is below p.
    openai_B = jnp.sum(mass_BV <= p_B1, axis=-1)  # Mass up to and with the token is within p.
    count_B = jnp.maximum(jnp.where(knobs.openai_top_p, openai_B, standard_B), 1)
    count_B = jnp.where(knobs.top_p_B < 1.0, count_B, size)
    last_B1 = jnp.take_along_axis(kept_BV, (count_B - 1)[:, None], axis=-1)
    return jnp.where(logits_BV >= jnp.maximum(last_B1, kth_B1), logits_BV, NEVER)


def draw(logits_BV: jax.Array, knobs: Knobs, keys_B: jax.Array, n_vocab: int) -> jax.Array:
    """One token per row, int32 [B], each row by its own key.

    Args:
        logits_BV: float32 as the model gives them; entries from ``n_vocab`` on pad the vocabulary and are never drawn.
    """
    real_V = jnp.arange(logits_BV.shape[-1]) < n_vocab
    logits_BV = jnp.where(real_V[None], logits_BV, NEVER)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filter_logits(logits_BV, knobs))
    return jnp.where(knobs.temperature_B <= 0.0, jnp.argmax(logits_BV, axis=-1), drawn_B).astype(jnp.int32)
