"""What is asked of the engine: a prompt and how to go on, checked, and as the arrays that the engine takes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import jax
import numpy as np

from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.filters import History, Knobs
from gpt2jax.generate.shapes import row_bucket

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

    @classmethod
    def of(cls, request: Request, alternatives: int = 0) -> Self:
        """A row before its first draw: forced tokens are read with the prompt, and count as drawn."""
        forced = list(request.sampling.forced_tokens)
        return cls(request, forced, [math.nan] * len(forced), [[]] * len(forced) if alternatives else [])

    def take(self, token: int, log_prob: float, top: list[tuple[int, float]] | None, stops: Sequence[int]) -> None:
        """One more token that the engine has drawn; one of ``stops`` ends the row and is not part of it."""
        if token in stops:
            self.finish, self.stop_log_prob = "stop", log_prob
            return
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        if top is not None:
            self.top.append(top)

    def close(self) -> None:
        """The engine draws no more: say why, if no stop token has ended the row."""
        if self.finish is None:
            self.finish = "length" if len(self.tokens) >= self.request.sampling.max_new_tokens else "context"

    @property
    def text_tokens(self) -> list[int]:
        return [*self.request.prompt, *self.tokens]


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
        return jax.device_put(np.array([value(one) for one in filled], dtype))

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
        bias_BV=jax.device_put(bias_BV),
    )


def make_history(rows: Sequence[Row], count: int, config: ModelConfig) -> History:
    """What each row has of each token now, filled up to ``count`` rows."""
    in_prompt_BV = np.zeros((count, config.padded_vocab), bool)
    drawn_BV = np.zeros((count, config.padded_vocab), np.int32)
    for number, row in enumerate(rows):
        in_prompt_BV[number, list(row.request.prompt)] = True
        np.add.at(drawn_BV[number], row.tokens, 1)
    return History(jax.device_put(in_prompt_BV), jax.device_put(drawn_BV))


def make_stops(
    sampling: Sequence[SamplingConfig], count: int, end_of_text: int | None, room: int = STOP_TOKENS
) -> jax.Array:
    """Stop tokens [B, M] (int32) of each row, filled up with -1 to ``count`` rows, and ``room`` or a power of two that
    is above it."""
    stops = [stop_tokens(one, end_of_text) for one in sampling]
    most = max(map(len, stops))
    stop_BM = np.full((count, room if most <= room else row_bucket(most)), -1, np.int32)
    for number, tokens in enumerate(stops):
        stop_BM[number, : len(tokens)] = tokens
    return jax.device_put(stop_BM)


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


def check_alternatives(count: int, config: ModelConfig, sampling: SamplingConfig | None = None) -> None:
    """Refuse a number of most probable tokens that there are not, or that ``sampling`` has no place for."""
    if not 0 <= count <= config.n_vocab:
        raise GPT2JaxError(f"log_probs: {count}: should be 0 to the vocabulary, {config.n_vocab:,}")
    if count and sampling is not None and sampling.beams > 1:
        raise GPT2JaxError(f"log_probs: {count}: goes with drawing, not with beam search")


def check_request(number: int, request: Request, config: ModelConfig, end_of_text: int | None) -> None:
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


def stop_tokens(sampling: SamplingConfig, end_of_text: int | None) -> tuple[int, ...]:
    end = () if end_of_text is None or sampling.ignore_end_of_text else (end_of_text,)
    return (*end, *sampling.stop_tokens)
