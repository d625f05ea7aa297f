"""Beam search: the most probable texts instead of drawn ones, all prompts and beams in one program.

A text of n new tokens (the one that stopped it included) has the score sum of log-probabilities / n ** length_penalty
(Wu et al. 2016 have a longer formula; this is the one that transformers computes). At each step the continuations of a
prompt's W beams are ranked: of the best W those that end join the W best ended ones, and the best W that do not end
are the next beams. A prompt is done when no beam can reach the score of its worst ended text any more, or at the end of
its room, where all beams end (transformers' ``early_stopping="never"``).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import pin_cache
from gpt2jax.generate.filters import NEVER, History, Knobs, adjust_logits
from gpt2jax.generate.request import Request, Row, check_request, make_history, make_knobs, make_stops, stop_tokens
from gpt2jax.generate.shapes import bucket, row_bucket
from gpt2jax.model import Cache
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition

# Names carry shapes: P prompts, W beams of each, R = P x W rows, C = W x (stop tokens + 1) candidates.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """What is asked of each prompt."""

    knobs: Knobs
    """Of every row; what has to do with drawing is not looked at."""
    stop_PM: jax.Array
    """int32, filled up with -1."""
    before_P: jax.Array
    """int32: tokens that were forced."""
    length_P: jax.Array
    """int32, forced tokens included."""
    limit_P: jax.Array
    """int32: position past the last new token."""
    length_penalty_P: jax.Array
    """float32."""


class Texts(NamedTuple):
    """Some texts of each prompt, best first."""

    score_PW: jax.Array
    """float32: of beams the sum of log-probabilities, of ended texts over their length. -inf: there is none."""
    tokens_PWS: jax.Array
    """int32."""
    log_prob_PWS: jax.Array
    """float32: of each new token, under the model alone."""
    position_PW: jax.Array
    """int32: of the newest token."""

    def take(self, index_PW: jax.Array) -> "Texts":
        def pick(leaf: jax.Array) -> jax.Array:
            return jnp.take_along_axis(leaf, index_PW.reshape(*index_PW.shape, *[1] * (leaf.ndim - 2)), axis=1)

        return Texts(*map(pick, self))


class State(NamedTuple):
    beams: Texts
    ended: Texts
    done_P: jax.Array
    """bool."""
    history: History
    cache: Cache


@functools.partial(jax.jit, static_argnames=("config", "total", "width", "place"))
def search(
    params: Params,
    tokens_PT: jax.Array,
    prompts: Prompts,
    history: History,
    *,
    config: ModelConfig,
    total: int,
    width: int,
    place: Partition | None = None,
) -> Texts:
    """The ``width`` best texts of each prompt.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        tokens_PT: int32 prompts, padded on the right.
        prompts: what is asked of each.
        history: of every row.
        total: S, positions there is room for.
        width: W, beams of each prompt.
        place: the mesh that ``params`` are on.
    """
    count, length = tokens_PT.shape
    logits_PV, cache = model.prefill(params, tokens_PT, prompts.length_P, config, total)
    first_R = jnp.repeat(jnp.arange(count), width)
    tokens_PWS = jnp.repeat(jnp.pad(tokens_PT, ((0, 0), (0, total - length)))[:, None], width, axis=1)
    nothing = Texts(
        jnp.full((count, width), -jnp.inf),
        tokens_PWS,
        jnp.zeros(tokens_PWS.shape, jnp.float32),
        jnp.repeat((prompts.length_P - 1)[:, None], width, axis=1),
    )
    # All beams are the prompt at first: one of them counts.
    beams = nothing._replace(score_PW=nothing.score_PW.at[:, 0].set(0.0))
    cache = pin_cache(jax.tree.map(lambda leaf: leaf[first_R], cache), place)
    state = State(beams, nothing, prompts.limit_P <= prompts.length_P, history, cache)

    def body(state: State) -> State:
        newest_PW1 = jnp.take_along_axis(state.beams.tokens_PWS, state.beams.position_PW[:, :, None], axis=2)
        logits_RV, cache = model.decode_step(
            params, newest_PW1.reshape(-1), state.beams.position_PW.reshape(-1), state.cache, config
        )
        return _rank(state._replace(cache=cache), logits_RV, prompts, config, place)

    state = _rank(state, logits_PV[first_R], prompts, config, place)
    return jax.lax.while_loop(lambda state: ~jnp.all(state.done_P), body, state).ended


def _rank(state: State, logits_RV: jax.Array, prompts: Prompts, config: ModelConfig, place: Partition | None) -> State:
    """Give every beam its best next tokens, and keep the best beams; prompts that are done stay as they are."""
    beams, (count, width) = state.beams, state.beams.score_PW.shape
    n_vocab, size, stops = config.n_vocab, logits_RV.shape[-1], prompts.stop_PM.shape[1]
    position_P = beams.position_PW[:, 0] + 1
    new_P = position_P - prompts.length_P

    per_row = functools.partial(jnp.repeat, repeats=width, axis=0)
    before_R = per_row(prompts.before_P + new_P)
    adjusted_RV = adjust_logits(logits_RV, prompts.knobs, state.history, per_row(prompts.stop_PM), before_R, n_vocab)
    log_prob_RV = jnp.where(adjusted_RV > NEVER, jax.nn.log_softmax(adjusted_RV, axis=-1), -jnp.inf)
    score_PWV = log_prob_RV.reshape(count, width, size) + beams.score_PW[:, :, None]
    # Enough of them that W do not end, whatever the others do.
    best_PC, flat_PC = jax.lax.top_k(score_PWV.reshape(count, -1), min(width * (stops + 1), width * size))
    parent_PC, token_PC = flat_PC // size, (flat_PC % size).astype(jnp.int32)
    own_RV = jax.nn.log_softmax(jnp.where((jnp.arange(size) < n_vocab)[None], logits_RV, -jnp.inf), axis=-1)
    own_PC = jnp.take_along_axis(own_RV.reshape(count, -1), flat_PC, axis=1)

    def grown(chosen_PW: jax.Array, score_PW: jax.Array) -> tuple[Texts, jax.Array]:
        """Candidates as texts, and the beams that they grew from."""
        parent_PW, token_PW, own_PW = (
            jnp.take_along_axis(array, chosen_PW, axis=1) for array in (parent_PC, token_PC, own_PC)
        )
        old = beams.take(parent_PW)
        at_PS = jnp.arange(old.tokens_PWS.shape[2])[None, :] == position_P[:, None]
        texts = Texts(
            score_PW,
            jnp.where(at_PS[:, None], token_PW[:, :, None], old.tokens_PWS),
            jnp.where(at_PS[:, None], own_PW[:, :, None], old.log_prob_PWS),
            old.position_PW + 1,
        )
        return texts, parent_PW

    full_P = position_P + 1 >= prompts.limit_P
    stops_PC = jnp.any(token_PC[:, :, None] == prompts.stop_PM[:, None, :], axis=2)
    # n ** -length_penalty; n is 1 with the first new token.
    over_P = (new_P + 1).astype(jnp.float32) ** -prompts.length_penalty_P
    ends_PW = (stops_PC | full_P[:, None])[:, :width]
    ended, _ = grown(
        jnp.tile(jnp.arange(width), (count, 1)), jnp.where(ends_PW, best_PC[:, :width] * over_P[:, None], -jnp.inf)
    )
    both = Texts(*(jnp.concatenate(pair, axis=1) for pair in zip(state.ended, ended, strict=True)))
    ended = both.take(jax.lax.top_k(both.score_PW, width)[1])

    score_PW, chosen_PW = jax.lax.top_k(jnp.where(stops_PC, -jnp.inf, best_PC), width)
    beams, parent_PW = grown(chosen_PW, score_PW)
    parent_R = (parent_PW + width * jnp.arange(count)[:, None]).reshape(-1)
    token_R = jnp.take_along_axis(token_PC, chosen_PW, axis=1).reshape(-1)
    moved: tuple[History, Cache] = jax.tree.map(lambda leaf: leaf[parent_R], (state.history, state.cache))
    history = moved[0].add(token_R, jnp.ones(token_R.shape, bool))

    # A sum only falls: over the longest length, or with a penalty of 0 or less over this one, it is the most a beam
    # can come to.
    most_P = jnp.where(prompts.length_penalty_P > 0.0, prompts.limit_P - prompts.length_P, new_P + 1)
    reach_P = score_PW[:, 0] * most_P.astype(jnp.float32) ** -prompts.length_penalty_P
    done_P = state.done_P | full_P | (ended.score_PW[:, -1] >= reach_P)

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(state.done_P.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    beams, ended = jax.tree.map(keep, (state.beams, state.ended), (beams, ended))
    return State(beams, ended, done_P, history, pin_cache(moved[1], place))


def beam_search(
    params: Params,
    requests: Sequence[Request],
    config: ModelConfig,
    *,
    end_of_text: int | None = None,
    place: Partition | None = None,
) -> list[list[Row]]:
    """The most probable continuations of each request, best first: ``sampling.beams`` of them, the same for all.

    Penalties, logit bias, bans and the minimum length act as in sampling, before the log-probabilities that are
    summed; nothing that has to do with drawing does.

    Args:
        params: from :func:`gpt2jax.generate.engine.decoding_params`.
        end_of_text: the token that ends a text, unless its settings ignore it.
        place: the mesh that ``params`` are on.

    Raises:
        GPT2JaxError: a prompt without tokens, one that fills the context, or a token that is not in the vocabulary.
    """
    if not requests:
        raise GPT2JaxError("requests: none: one at least is needed")
    widths = {request.sampling.beams for request in requests}
    if len(widths) > 1:
        raise GPT2JaxError(f"sampling.beams: {sorted(widths)}: should be the same for all requests of a call")
    for number, request in enumerate(requests, 1):
        check_request(number, request, config, end_of_text)
    [width] = widths
    rows = [Row.of(request) for request in requests]
    count = row_bucket(len(rows), place)
    lengths = [len(row.text_tokens) for row in rows]
    limits = [min(config.n_ctx, len(row.request.prompt) + row.request.sampling.max_new_tokens) for row in rows]
    tokens_PT = np.zeros((count, bucket(max(lengths), config.n_ctx, count)), np.int32)
    for number, row in enumerate(rows):
        tokens_PT[number, : lengths[number]] = row.text_tokens
    sampling = [request.sampling for request in requests]
    padding = [0] * (count - len(rows))
    beams = [row for row in rows for _ in range(width)]

    def ints(values: list[int]) -> jax.Array:
        return jax.device_put(np.array(values + padding, np.int32))

    prompts = Prompts(
        knobs=make_knobs([row.request.sampling for row in beams], count * width, config, end_of_text),
        stop_PM=make_stops(sampling, count, end_of_text),
        before_P=ints([len(row.tokens) for row in rows]),
        length_P=jax.device_put(np.array(lengths + [1] * len(padding), np.int32)),
        limit_P=ints(limits),  # 0 in those that only fill the shape: they are done before they start.
        length_penalty_P=jax.device_put(np.array([one.length_penalty for one in sampling] + padding, np.float32)),
    )
    texts = search(
        params,
        jax.device_put(tokens_PT),
        prompts,
        make_history(beams, count * width, config),
        config=config,
        total=bucket(max(tokens_PT.shape[1], *limits), config.n_ctx, count * width),
        width=width,
        place=place,
    )
    found = jax.device_get(texts)
    return [
        [
            _row(requests[number], found, (number, beam), lengths[number], end_of_text)
            for beam in range(width)
            if np.isfinite(found.score_PW[number, beam])
        ]
        for number in range(len(requests))
    ]


def _row(request: Request, texts: Texts, at: tuple[int, int], length: int, end_of_text: int | None) -> Row:
    row = Row.of(request)
    end = int(texts.position_PW[at]) + 1
    row.tokens += texts.tokens_PWS[at][length:end].tolist()
    row.log_probs += texts.log_prob_PWS[at][length:end].tolist()
    if row.tokens[-1] in stop_tokens(request.sampling, end_of_text):
        row.tokens.pop()
        row.stop_log_prob = row.log_probs.pop()
        row.finish = "stop"
    else:
        row.finish = "length" if len(row.tokens) >= request.sampling.max_new_tokens else "context"
    return row
