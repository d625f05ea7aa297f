"""A batch of requests on its way through the engine, seen from the host: what each row has written so far."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate import engine
from gpt2jax.generate.engine import Rows, SamplingState, bucket, row_bucket
from gpt2jax.generate.filters import History, Knobs
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition

Finish = Literal["stop", "length", "context"]

# Least number of stop tokens that there is room for; more double it.
STOP_TOKENS = 4


@dataclasses.dataclass(frozen=True)
class Request:
    """One text to write."""

    prompt: tuple[int, ...]
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    index: int = 0
    """Sample index: texts of the same seed and prompt differ by it."""


@dataclasses.dataclass
class Row:
    """What has been written for one request."""

    request: Request
    tokens: list[int] = dataclasses.field(default_factory=list)
    """Drawn so far, without the token that stopped it."""
    log_probs: list[float] = dataclasses.field(default_factory=list)
    """Of each of ``tokens``, in nats, under the model alone; NaN for forced ones, which were not drawn."""
    top: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    """At the place of each of ``tokens``: the most probable tokens with their log-probabilities."""
    stop_log_prob: float | None = None
    """Of the token that stopped it, when one has."""
    finish: Finish | None = None
    """Why it ended: a stop token, ``max_new_tokens``, or the end of the context."""

    @property
    def text_tokens(self) -> list[int]:
        return [*self.request.prompt, *self.tokens]


class Batch:
    """Requests that are computed together."""

    def __init__(
        self,
        params: Params,
        requests: Sequence[Request],
        config: ModelConfig,
        *,
        end_of_text: int | None = None,
        alternatives: int = 0,
        place: Partition | None = None,
    ) -> None:
        """Read the prompts and draw the first tokens.

        Args:
            params: from :func:`gpt2jax.generate.engine.decoding_params`.
            end_of_text: the token that ends a text, unless its settings ignore it.
            alternatives: most probable tokens to note at each place.
            place: the mesh that ``params`` are on; rows are spread over its data axes.

        Raises:
            GPT2JaxError: a prompt without tokens, one that fills the context, or a token that is not in the vocabulary.
        """
        if not requests:
            raise GPT2JaxError("requests: none: one at least is needed")
        if not 0 <= alternatives <= config.n_vocab:
            raise GPT2JaxError(f"log_probs: {alternatives}: should be 0 to the vocabulary, {config.n_vocab:,}")
        for number, request in enumerate(requests, 1):
            _check(number, request, config, end_of_text)
        self.params, self.config, self.end_of_text, self.alternatives = params, config, end_of_text, alternatives
        self.place = place
        self._state: SamplingState
        # Forced tokens are read with the prompt, and count as drawn.
        self.rows = [
            Row(request, list(forced), [math.nan] * len(forced), [[]] * len(forced) if alternatives else [])
            for request in requests
            for forced in (request.sampling.forced_tokens,)
        ]
        self._start(self.rows)

    @property
    def finished(self) -> bool:
        return all(row.finish and not self.will_go_on(row) for row in self.rows)

    def advance(self, steps: int) -> None:
        """Draw up to ``steps`` more tokens in every row that has not ended."""
        if self.finished:
            return
        if any(row.finish is None for row in self._running):
            self._state = engine.advance(
                self.params, self._state, jnp.asarray(steps, jnp.int32), config=self.config, place=self.place
            )
            self._collect()
        sliding = [row for row in self._running if self.will_go_on(row)]
        if sliding and all(row.finish for row in self._running):
            for row in sliding:
                row.finish = None
            self._start(sliding)

    def will_go_on(self, row: Row) -> bool:
        """Whether a row that has come to the end of the context is to slide on."""
        return row.finish == "context" and _slides(row)

    def run(self) -> list[Row]:
        """Write every row to its end."""
        while not self.finished:
            self.advance(self.config.n_ctx)
        return self.rows

    def end(self, number: int, tokens: int) -> None:
        """End row ``number``, whose text has been seen to be complete with its first ``tokens`` tokens."""
        row = self.rows[number]
        row.finish, row.stop_log_prob = "stop", None
        for drawn in (row.tokens, row.log_probs, row.top):
            del drawn[tokens:]
        for at, running in enumerate(self._running):
            if running is row:
                done_B = np.array(self._state.done_B)
                done_B[at] = True
                self._state = dataclasses.replace(
                    self._state, done_B=jax.device_put(done_B, self._state.done_B.sharding)
                )

    def _start(self, rows: list[Row]) -> None:
        """Compute ``rows`` from what their texts are now."""
        self._running = rows
        # Of a text that has slid out of the context its last half stays.
        kept = [_window(row, self.config.n_ctx) for row in rows]
        offsets = [len(row.text_tokens) - len(window) for row, window in zip(rows, kept, strict=True)]
        prompts = list(dict.fromkeys(map(tuple, kept)))
        count, unique = self._padded(len(rows)), row_bucket(len(prompts))
        width = bucket(max(map(len, prompts)), self.config.n_ctx)
        limits = [
            min(self.config.n_ctx, len(window) + row.request.sampling.max_new_tokens - len(row.tokens))
            for row, window in zip(rows, kept, strict=True)
        ]
        total = bucket(max(width, *limits), self.config.n_ctx)
        tokens_PT = np.zeros((unique, width), np.int32)
        length_P = np.ones(unique, np.int32)
        for number, prompt in enumerate(prompts):
            tokens_PT[number, : len(prompt)] = prompt
            length_P[number] = len(prompt)
        prompt_B = np.array([prompts.index(tuple(window)) for window in kept] + [0] * (count - len(rows)), np.int32)
        device_rows = self._device_rows(rows, count, [len(window) for window in kept], limits, offsets)
        self._state = engine.start(
            self.params,
            jnp.asarray(tokens_PT),
            jnp.asarray(length_P),
            jnp.asarray(prompt_B),
            device_rows,
            self._history(rows, count),
            config=self.config,
            total=total,
            alternatives=self.alternatives,
            place=self.place,
        )
        self._collect()

    def _padded(self, rows: int) -> int:
        """Rows of the program: a power of two, which the mesh divides."""
        count = row_bucket(rows)
        if self.place is None:
            return count
        over = self.place.size(self.place.rules.batch)
        return -(-max(count, over) // over) * over

    def _device_rows(
        self, rows: list[Row], count: int, lengths: list[int], limits: list[int], offsets: list[int]
    ) -> Rows:
        requests = [row.request for row in rows]
        padding = [0] * (count - len(rows))
        stops = [_stop_tokens(request.sampling, self.end_of_text) for request in requests]
        room = row_bucket(max(STOP_TOKENS, *map(len, stops)))
        stop_BM = np.full((count, room), -1, np.int32)
        for number, tokens in enumerate(stops):
            stop_BM[number, : len(tokens)] = tokens

        def ints(values: list[int]) -> jax.Array:
            return jnp.asarray(np.array(values + padding, np.int32))

        return Rows(
            knobs=make_knobs([request.sampling for request in requests], count, self.config, self.end_of_text),
            seed_B=jnp.asarray(np.array([request.sampling.seed % 2**32 for request in requests] + padding, np.uint32)),
            index_B=ints([request.index for request in requests]),
            offset_B=ints(offsets),
            before_B=ints([len(row.tokens) for row in rows]),
            first_B=jnp.asarray(np.array(lengths + [1] * len(padding), np.int32)),
            limit_B=ints(limits),  # 0 in rows that only fill the shape: they are done before they start.
            stop_BM=jnp.asarray(stop_BM),
        )

    def _history(self, rows: list[Row], count: int) -> History:
        in_prompt_BV = np.zeros((count, self.config.padded_vocab), bool)
        drawn_BV = np.zeros((count, self.config.padded_vocab), np.int32)
        for number, row in enumerate(rows):
            in_prompt_BV[number, list(row.request.prompt)] = True
            np.add.at(drawn_BV[number], row.tokens, 1)
        return History(jnp.asarray(in_prompt_BV), jnp.asarray(drawn_BV))

    def _collect(self) -> None:
        """Take what the engine has drawn since the last time."""
        state = self._state
        tokens_BS, log_prob_BS = np.asarray(state.tokens_BS), np.asarray(state.log_prob_BS)
        position_B, done_B = np.asarray(state.position_B), np.asarray(state.done_B)
        offset_B = np.asarray(state.rows.offset_B)
        if self.alternatives:
            top_token_BSN, top_log_prob_BSN = np.asarray(state.top_token_BSN), np.asarray(state.top_log_prob_BSN)
        for at, row in enumerate(self._running):
            if row.finish is not None:
                continue
            stops = _stop_tokens(row.request.sampling, self.end_of_text)
            for position in range(len(row.text_tokens) - int(offset_B[at]), int(position_B[at]) + 1):
                token = int(tokens_BS[at, position])
                if token in stops:
                    row.finish, row.stop_log_prob = "stop", float(log_prob_BS[at, position])
                    break
                row.tokens.append(token)
                row.log_probs.append(float(log_prob_BS[at, position]))
                if self.alternatives:
                    pairs = zip(top_token_BSN[at, position], top_log_prob_BSN[at, position], strict=True)
                    row.top.append([(int(token), float(log_prob)) for token, log_prob in pairs])
            if done_B[at] and row.finish is None:
                full = len(row.tokens) >= row.request.sampling.max_new_tokens
                row.finish = "length" if full else "context"


def make_knobs(
    sampling: Sequence[SamplingConfig], count: int, config: ModelConfig, end_of_text: int | None = None
) -> Knobs:
    """Settings of each row as the engine takes them, filled up to ``count`` rows."""
    filled = [*sampling, *[SamplingConfig()] * (count - len(sampling))]
    bias_BV = np.zeros((count, config.padded_vocab), np.float32)
    for row, one in enumerate(filled):
        for token, value in one.logit_bias.items():
            bias_BV[row, token] = value
        bias_BV[row, list(_banned(one, end_of_text))] = -np.inf

    def column(value: Callable[[SamplingConfig], float], dtype: Any = np.float32) -> jax.Array:
        return jnp.asarray(np.array([value(one) for one in filled], dtype))

    return Knobs(
        temperature_B=column(lambda one: one.temperature if one.do_sample else 0.0),
        top_k_B=column(lambda one: min(one.top_k, config.padded_vocab), np.int32),
        top_p_B=column(lambda one: one.top_p),
        openai_top_p_B=column(lambda one: one.top_p_rule == "openai", bool),
        min_p_B=column(lambda one: one.min_p),
        repetition_B=column(lambda one: one.repetition_penalty),
        presence_B=column(lambda one: one.presence_penalty),
        frequency_B=column(lambda one: one.frequency_penalty),
        min_new_B=column(lambda one: min(one.min_new_tokens, 2**31 - 1), np.int32),
        bias_BV=jnp.asarray(bias_BV),
    )


def check_sampling(sampling: SamplingConfig, config: ModelConfig, end_of_text: int | None) -> None:
    """Refuse settings that are none for this model.

    Raises:
        GPT2JaxError: a token that is not in its vocabulary, or none left to draw.
    """
    for name in ("banned_tokens", "forced_tokens", "stop_tokens", "logit_bias"):
        for token in getattr(sampling, name):
            if not 0 <= token < config.n_vocab:
                raise GPT2JaxError(f"sampling.{name}: {token}: should be below the vocabulary of {config.n_vocab:,}")
    if len(_banned(sampling, end_of_text)) >= config.n_vocab:
        raise GPT2JaxError("sampling.banned_tokens: all of the vocabulary: one token at least should be left")
    if len(sampling.forced_tokens) > config.n_ctx - 2:
        raise GPT2JaxError(
            f"sampling.forced_tokens: {len(sampling.forced_tokens)} of them: should leave room in the context of"
            f" {config.n_ctx} for a prompt and a token more"
        )


def _check(number: int, request: Request, config: ModelConfig, end_of_text: int | None) -> None:
    check_sampling(request.sampling, config, end_of_text)
    if not request.prompt:
        raise GPT2JaxError(f"prompt {number}: no tokens; at least one is needed")
    room = config.n_ctx - len(request.sampling.forced_tokens)
    if len(request.prompt) >= room:
        raise GPT2JaxError(
            f"prompt {number}: {len(request.prompt)} tokens: should be below the model's context of {config.n_ctx}"
        )
    for token in request.prompt:
        if not 0 <= token < config.n_vocab:
            raise GPT2JaxError(f"prompt {number}: token {token}: should be below the vocabulary of {config.n_vocab:,}")


def _banned(sampling: SamplingConfig, end_of_text: int | None) -> set[int]:
    ignored = {end_of_text} if sampling.ignore_end_of_text and end_of_text is not None else set()
    return {*sampling.banned_tokens, *ignored}


def _stop_tokens(sampling: SamplingConfig, end_of_text: int | None) -> tuple[int, ...]:
    end = () if end_of_text is None or sampling.ignore_end_of_text else (end_of_text,)
    return (*end, *sampling.stop_tokens)


def _slides(row: Row) -> bool:
    return row.request.sampling.past_context == "slide"


def _window(row: Row, n_ctx: int) -> list[int]:
    """The end of a row's text that is (still) in the context."""
    tokens = row.text_tokens
    return tokens if len(tokens) < n_ctx else tokens[-(n_ctx // 2) :]
