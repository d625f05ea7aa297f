"""Between the routes and the scheduler: texts as awaitables, in the event loop's terms."""

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, Callable
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from gpt2jax.config import SamplingConfig
from gpt2jax.config.serving import ServingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.request import Request
from gpt2jax.generate.score import Score, score
from gpt2jax.generate.shapes import bucket
from gpt2jax.generate.text import Sample, TextModel
from gpt2jax.serve.embed import embed
from gpt2jax.serve.metrics import Metrics
from gpt2jax.serve.scheduler import Scheduler
from gpt2jax.serve.texts import ClosedError, Listener, Piece
from gpt2jax.tokenizer import encode_prompt

T = TypeVar("T")


class TooManyError(GPT2JaxError):
    """What was asked for is past a limit of the server's."""


class Numbered(NamedTuple):
    """A piece of one of several texts."""

    number: int
    piece: Piece


@dataclasses.dataclass
class Service:
    """One model, served."""

    name: str
    writer: TextModel
    serving: ServingConfig
    metrics: Metrics
    scheduler: Scheduler
    started: int = dataclasses.field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    @classmethod
    def of(cls, name: str, writer: TextModel, serving: ServingConfig) -> "Service":
        metrics = Metrics()
        scheduler = Scheduler(
            writer,
            slots=serving.slots,
            queue=serving.queue,
            chunk=serving.chunk,
            alternatives=serving.max_logprobs,
            metrics=metrics,
        )
        return cls(name, writer, serving, metrics, scheduler)

    @property
    def ready(self) -> bool:
        return self.scheduler.ready and self.scheduler.failure is None

    def encode(self, prompt: str | list[int], sampling: SamplingConfig, number: int) -> list[int]:
        """Tokens of a prompt, or the prompt, which may be tokens.

        Raises:
            GPT2JaxError: it is empty, too long, or has a character that the vocabulary lacks.
        """
        tokens = encode_prompt(self.writer.encoding, prompt) if isinstance(prompt, str) else list(prompt)
        room = self.writer.config.n_ctx - len(sampling.forced_tokens) - 1
        most = min(room, self.serving.max_prompt_tokens or room)
        if sampling.truncate == "left" and len(tokens) > most:
            tokens = tokens[-max(min(most, room - sampling.max_new_tokens + 1), most // 2, 1) :]
        if not tokens:
            raise GPT2JaxError(f"prompt {number}: is empty: one token at least is needed")
        if len(tokens) > most:
            raise TooManyError(f"prompt {number}: {len(tokens):,} tokens: at most {most:,} are taken")
        return tokens

    def encode_text(self, text: str | list[int], number: int) -> list[int]:
        """Tokens of a text that is to be read.

        Raises:
            GPT2JaxError: it is empty, too long, or has a token or character that the vocabulary lacks.
        """
        config = self.writer.config
        tokens = encode_prompt(self.writer.encoding, text) if isinstance(text, str) else list(text)
        if not 1 <= len(tokens) <= config.n_ctx:
            raise GPT2JaxError(f"input {number}: {len(tokens):,} tokens: should be 1 to the context, {config.n_ctx:,}")
        if max(tokens) >= config.n_vocab:
            raise GPT2JaxError(f"input {number}: token {max(tokens)}: should be below {config.n_vocab:,}")
        return tokens

    def requests(self, prompts: list[list[int]], sampling: SamplingConfig, draws: int) -> list[Request]:
        """``draws`` texts of each prompt, in order.

        Raises:
            TooManyError: more texts, or more tokens, than a request may ask for.
        """
        self._check_count("texts", len(prompts) * draws, self.serving.queue + self.serving.slots)
        if sampling.max_new_tokens > self.serving.max_tokens:
            most = self.serving.max_tokens
            raise TooManyError(f"max_new_tokens: {sampling.max_new_tokens:,}: at most {most:,} are written")
        return [Request(tuple(prompt), sampling, index) for prompt in prompts for index in range(draws)]

    def _check_count(self, what: str, count: int, room: int) -> None:
        """Refuse more than a request may have, or than there ever is room for."""
        most = min(self.serving.max_texts, room)
        if count > most:
            raise TooManyError(f"{what}: {count:,}: at most {most:,} in a request")

    def start(self) -> None:
        """Compile everything; from then on the scheduler takes turns."""
        lengths = {bucket(length, self.writer.config.n_ctx) for length in range(1, self.writer.config.n_ctx + 1)}
        texts = [[0] * length for length in sorted(lengths)]
        self.scheduler.start(
            functools.partial(one, text) for text in texts for one in (self._score, self._mean, self._last)
        )

    def _score(self, text: list[int]) -> Score:
        most = self.scheduler.alternatives
        return score(self.writer.params, [text], self.writer.config, alternatives=most, batch_size=1)[0]

    def _mean(self, text: list[int]) -> np.ndarray:
        return embed(self.writer.params, text, self.writer.config, pool="mean")

    def _last(self, text: list[int]) -> np.ndarray:
        return embed(self.writer.params, text, self.writer.config, pool="last")

    async def score(self, texts: list[list[int]]) -> list[Score]:
        """Log-probabilities of the texts' own tokens, with as many alternatives as may be asked for."""
        return await self._calls(self._score, texts)

    async def embed(self, texts: list[list[int]], pool: Literal["mean", "last"]) -> list[np.ndarray]:
        """Features of each text, float32 [D]: final states, their mean or the last position's."""
        return await self._calls(self._mean if pool == "mean" else self._last, texts)

    async def _calls(self, work: Callable[[list[int]], T], texts: list[list[int]]) -> list[T]:
        self._check_count("input", len(texts), self.serving.queue + 1)
        calls = self.scheduler.call([functools.partial(work, text) for text in texts])
        futures = [asyncio.wrap_future(call) for call in calls]
        try:
            return [await future for future in futures]
        except Exception as error:
            raise _told(error) from error
        finally:
            for future in futures:
                future.cancel()

    async def pieces(self, requests: list[Request], alternatives: int = 0) -> AsyncGenerator[Numbered]:
        """What the texts gain, as it comes. Closing the iterator frees their slots.

        Raises:
            QueueFullError, ClosedError, GPT2JaxError: as of :meth:`gpt2jax.serve.scheduler.Scheduler.submit_all`;
                ClosedError, too, where the server fails meanwhile.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece | Exception]]()

        def listener(number: int) -> Listener:
            def heard(piece: Piece | Exception) -> None:
                with contextlib.suppress(RuntimeError):  # The loop has ended: nobody listens.
                    loop.call_soon_threadsafe(queue.put_nowait, (number, piece))

            return heard

        texts = self.scheduler.submit_all(requests, listener, alternatives)
        growing = set(range(len(texts)))
        try:
            while growing:
                number, piece = await queue.get()
                if isinstance(piece, Exception):
                    raise _told(piece) from piece
                if piece.finish:
                    growing.discard(number)
                yield Numbered(number, piece)
        finally:
            for number in growing:
                self.scheduler.cancel(texts[number])

    async def write(self, requests: list[Request], alternatives: int = 0) -> list[Sample]:
        """Texts, when all of them are done; see :meth:`pieces`."""
        pieces: list[list[Piece]] = [[] for _ in requests]
        async with contextlib.aclosing(self.pieces(requests, alternatives)) as coming:
            async for number, piece in coming:
                pieces[number].append(piece)
        return [_sample(some) for some in pieces]


def _told(error: Exception) -> GPT2JaxError:
    """Of what went wrong while others waited for it."""
    return error if isinstance(error, GPT2JaxError) else ClosedError(f"the server has failed: {error}")


def _sample(pieces: list[Piece]) -> Sample:
    tokens = [token for piece in pieces for token in piece.tokens]
    return Sample(
        text="".join(piece.text for piece in pieces),
        tokens=[token.token for token in tokens],
        log_probs=[token.log_prob for token in tokens],
        top=[token.top for token in tokens],
        stop_log_prob=pieces[-1].stop_log_prob,
        finish=pieces[-1].finish or "stop",
    )
