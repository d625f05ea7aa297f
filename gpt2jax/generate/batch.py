"""A batch of requests on its way through the engine, seen from the host: what each row has written so far."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate import engine
from gpt2jax.generate.engine import Rows, SamplingState
from gpt2jax.generate.request import (
    STOP_TOKENS,
    Request,
    Row,
    check_alternatives,
    check_request,
    make_history,
    make_knobs,
    make_stops,
    stop_tokens,
)
from gpt2jax.generate.shapes import bucket, least_rows, padded, row_bucket
from gpt2jax.generate.speculate import Draft, speculate, start_draft
from gpt2jax.model import Cache
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition


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
        draft: Draft | None = None,
    ) -> None:
        """Read the prompts and draw the first tokens.

        Args:
            params: from :func:`gpt2jax.generate.engine.decoding_params`.
            end_of_text: the token that ends a text, unless its settings ignore it.
            alternatives: most probable tokens to note at each place.
            place: the mesh that ``params`` are on; rows are spread over its data axes.
            draft: a smaller model that drafts tokens; what is written stays the same.

        Raises:
            GPT2JaxError: a prompt without tokens, one that fills the context, or a token that is not in the vocabulary.
        """
        if not requests:
            raise GPT2JaxError("requests: none: one at least is needed")
        check_alternatives(alternatives, config)
        for number, request in enumerate(requests, 1):
            check_request(number, request, config, end_of_text)
        self.params, self.config, self.end_of_text, self.alternatives = params, config, end_of_text, alternatives
        self.place, self.draft = place, draft
        self.rounds = 0
        """Of drafting, so far; each gave every row at least one token."""
        if draft is not None:
            draft.check(config)
        self._state: SamplingState
        self._draft_cache: Cache
        self.rows = [Row.of(request, alternatives) for request in requests]
        self._start(self.rows)

    @property
    def finished(self) -> bool:
        return all(row.finish and not will_go_on(row) for row in self.rows)

    def advance(self, steps: int) -> None:
        """Draw up to ``steps`` more tokens in every row that has not ended; with a draft, for so many rounds."""
        if self.finished:
            return
        if any(row.finish is None for row in self._running):
            self._draw(jax.device_put(np.int32(steps)))
            self._collect()
        sliding = [row for row in self._running if will_go_on(row)]
        if sliding and all(row.finish for row in self._running):
            for row in sliding:
                row.finish = None
            self._start(sliding)

    def _draw(self, steps: jax.Array) -> None:
        if self.draft is None:
            self._state = engine.advance(self.params, self._state, steps, config=self.config, place=self.place)
            return
        self._state, self._draft_cache, rounds = speculate(
            self.params,
            self.draft.params,
            self._state,
            self._draft_cache,
            steps,
            config=self.config,
            draft_config=self.draft.config,
            draft_tokens=self.draft.tokens,
            place=self.place,
        )
        self.rounds += int(rounds)

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
        kept = [window(row, self.config.n_ctx) for row in rows]
        prompts = list(dict.fromkeys(map(tuple, kept)))
        count = max(row_bucket(len(rows), self.place), least_rows())
        tokens_PT, length_P = padded(prompts, self.config.n_ctx)
        needed = max(tokens_PT.shape[1], *(limit(row, self.config.n_ctx) for row in rows))
        total = bucket(needed, self.config.n_ctx, len(rows))
        prompt_B = np.array([prompts.index(tuple(tokens)) for tokens in kept] + [0] * (count - len(rows)), np.int32)
        device_rows = make_rows(rows, count, self.config, self.end_of_text)
        prompts_read = jax.device_put(tokens_PT), jax.device_put(length_P), jax.device_put(prompt_B)
        if self.draft is not None:
            draft = self.draft
            self._draft_cache = start_draft(
                draft.params, *prompts_read, config=draft.config, total=total, place=self.place
            )
        self._state = engine.start(
            self.params,
            *prompts_read,
            device_rows,
            make_history(rows, count, self.config),
            config=self.config,
            total=total,
            alternatives=self.alternatives,
            place=self.place,
        )
        self._collect()

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
            stops = stop_tokens(row.request.sampling, self.end_of_text)
            for position in range(len(row.text_tokens) - int(offset_B[at]), int(position_B[at]) + 1):
                top = None
                if self.alternatives:
                    pairs = zip(top_token_BSN[at, position], top_log_prob_BSN[at, position], strict=True)
                    top = [(int(token), float(log_prob)) for token, log_prob in pairs]
                row.take(int(tokens_BS[at, position]), float(log_prob_BS[at, position]), top, stops)
            if done_B[at]:
                row.close()


def make_rows(
    rows: Sequence[Row], count: int, config: ModelConfig, end_of_text: int | None, stop_room: int = STOP_TOKENS
) -> Rows:
    """What the engine is told of ``rows``, whose texts are what they are now, filled up to ``count`` rows.

    Args:
        stop_room: stop tokens that there is a place for in each row, at least.
    """
    sampling = [row.request.sampling for row in rows]
    lengths = [len(window(row, config.n_ctx)) for row in rows]
    padding = [0] * (count - len(rows))

    def ints(values: list[int]) -> jax.Array:
        return jax.device_put(np.array(values + padding, np.int32))

    return Rows(
        knobs=make_knobs(sampling, count, config, end_of_text),
        seed_B=jax.device_put(np.array([one.seed % 2**32 for one in sampling] + padding, np.uint32)),
        index_B=ints([row.request.index for row in rows]),
        offset_B=ints([len(row.text_tokens) - length for row, length in zip(rows, lengths, strict=True)]),
        before_B=ints([len(row.tokens) for row in rows]),
        first_B=jax.device_put(np.array(lengths + [1] * len(padding), np.int32)),
        limit_B=ints([limit(row, config.n_ctx) for row in rows]),  # 0 in rows that only fill the shape: done already.
        stop_BM=make_stops(sampling, count, end_of_text, stop_room),
    )


def window(row: Row, n_ctx: int) -> list[int]:
    """The end of a row's text that is (still) in the context: of one that has slid out of it, the last half."""
    tokens = row.text_tokens
    return tokens if len(tokens) < n_ctx else tokens[-(n_ctx // 2) :]


def limit(row: Row, n_ctx: int) -> int:
    """The position in its window past the last token that is still to be drawn."""
    return min(n_ctx, len(window(row, n_ctx)) + row.request.sampling.max_new_tokens - len(row.tokens))


def will_go_on(row: Row) -> bool:
    """Whether a row that has come to the end of the context is to slide on."""
    return row.finish == "context" and row.request.sampling.past_context == "slide"
