"""Who is in which slot: a queue in front of the slots, and the one thread that drives them.

A turn reads one piece of one prompt, so that a long one does not stall the others, and draws one token for every text
that is being written. Texts are told what they gain as it comes, whole characters only.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import model
from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.batch import make_rows, will_go_on, window
from gpt2jax.generate.request import Finish, Request, Row, check_request, make_history, stop_tokens
from gpt2jax.generate.shapes import SMALLEST_BUCKET
from gpt2jax.generate.stream import TextStream
from gpt2jax.generate.text import TextModel
from gpt2jax.serve import slots as programs
from gpt2jax.serve.metrics import Metrics
from gpt2jax.serve.slots import Drawn
from gpt2jax.tokenizer import end_of_text

T = TypeVar("T")

# Tokens of the smaller pieces: what is read of a short prompt, or of the end of a long one.
SHORT = 16
# Stop tokens that there is room for in a slot.
STOP_ROOM = 16


class QueueFullError(GPT2JaxError):
    """As many texts wait as may."""


class ClosedError(GPT2JaxError):
    """No more texts are taken."""


class Token(NamedTuple):
    """One that was drawn, or forced."""

    token: int
    log_prob: float
    """Under the model alone; NaN where it was forced."""
    top: list[tuple[int, float]]
    """The most probable ones with their log-probabilities, where asked for."""


class Piece(NamedTuple):
    """What a text gains."""

    text: str
    tokens: list[Token]
    """That were drawn since the piece before; of text that is held back, too."""
    finish: Finish | None
    """Set on the last piece."""
    stop_log_prob: float | None = None
    """Of the token that stopped it, on the last piece, when one has."""


Listener = Callable[[Piece | Exception], None]
"""Told of each piece, on the scheduler's thread; of an exception, once, if the text cannot be finished."""


@dataclasses.dataclass(eq=False)
class Text:
    """One that waits, is read, or is written."""

    request: Request
    listener: Listener
    alternatives: int
    row: Row
    stream: TextStream
    prompt: list[int]
    """What is to be read before (more of) the text can be drawn."""
    submitted: float
    """Seconds, by the clock of ``time.perf_counter``."""
    read: int = 0
    """Tokens of the prompt that have been read."""
    drawn_before: int = 0
    """Tokens of the row that are part of the prompt, or came before it."""
    told: int = 0
    """Tokens of the row that the listener has been told of."""
    latest: float = 0.0
    """When the newest token came."""
    cancelled: bool = False


class Scheduler:
    """Slots of one model and the thread that drives them."""

    def __init__(
        self,
        writer: TextModel,
        *,
        slots: int,
        queue: int,
        chunk: int = 128,
        alternatives: int = 5,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            slots: texts that are written at once.
            queue: texts that may wait beside them.
            chunk: tokens of a prompt that are read between two steps.
            alternatives: most probable tokens that may be asked for at each place.
        """
        self.writer, self.config, self.place = writer, writer.config, writer.place
        self.end_of_text = end_of_text(writer.encoding)
        self.alternatives, self.metrics = min(alternatives, writer.config.n_vocab), metrics or Metrics()
        self.chunk = min(chunk, self.config.n_ctx)
        self.pieces = sorted({min(SHORT, self.chunk), self.chunk})
        self.lengths = _lengths(self.chunk, self.config.n_ctx)
        self._room = queue
        self._queue: collections.deque[Text] = collections.deque()
        self._slots: list[Text | None] = [None] * slots
        self._calls: collections.deque[tuple[Callable[[], Any], Future[Any]]] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self.ready = False
        """Whether all programs are compiled."""
        self.failure: Exception | None = None
        """What ended the thread, if anything has."""
        filler = Row.of(Request((0,), SamplingConfig()))
        rows = make_rows([filler] * slots, slots, self.config, self.end_of_text, STOP_ROOM)
        self._device = programs.empty(rows, make_history([filler] * slots, slots, self.config))
        self._cache = self._new_cache(self.lengths[0])
        self._length = self.lengths[0]
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self, warm: Iterable[Callable[[], Any]] = ()) -> None:
        """Compile all programs and begin to take turns; until then texts wait.

        Args:
            warm: compile the programs of what :meth:`call` will be asked for.
        """
        try:
            for one in warm:
                one()
            self._warm()
        except Exception as error:
            self.failure = error
            raise
        self._thread.start()
        self.ready = True

    def submit(self, request: Request, listener: Listener, alternatives: int = 0) -> Text:
        """Write a text.

        Raises:
            QueueFullError: too many wait.
            ClosedError: the scheduler ends, or has failed.
            GPT2JaxError: the request is none for this model.
        """
        return self.submit_all([request], lambda _: listener, alternatives)[0]

    def submit_all(
        self, requests: list[Request], listeners: Callable[[int], Listener], alternatives: int = 0
    ) -> list[Text]:
        """Write several texts, or none of them if there is no room for all.

        Args:
            listeners: gives the listener of each number.

        Raises:
            QueueFullError, ClosedError, GPT2JaxError: as :meth:`submit`.
        """
        texts = []
        for number, request in enumerate(requests):
            self.check(number + 1, request, alternatives)
            row = Row.of(request, alternatives)
            stream = TextStream(self.writer.encoding, request.sampling.stop)
            prompt = window(row, self.config.n_ctx)
            texts.append(
                Text(
                    request,
                    listeners(number),
                    alternatives,
                    row,
                    stream,
                    prompt,
                    submitted=time.perf_counter(),
                    drawn_before=len(row.tokens),
                )
            )
        with self._changed:
            self._check_open()
            waiting = sum(not text.cancelled for text in self._queue)
            free = sum(text is None for text in self._slots)
            if waiting + len(texts) > self._room + free:
                raise QueueFullError(f"queue: {waiting} texts wait already: {self._room} may")
            self._queue.extend(texts)
            self._changed.notify_all()
        return texts

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Have other work done on the device, one piece of it in a turn.

        Raises:
            QueueFullError, ClosedError: as :meth:`submit`.
        """
        done: Future[T] = Future()
        with self._changed:
            self._check_open()
            if len(self._calls) > self._room:
                raise QueueFullError(f"queue: {len(self._calls)} requests wait already: {self._room} may")
            self._calls.append((work, done))
            self._changed.notify_all()
        return done

    def _check_open(self) -> None:
        if self.failure:
            raise ClosedError(f"the server has failed: {self.failure}")
        if self._closing:
            raise ClosedError("the server is ending")

    def check(self, number: int, request: Request, alternatives: int = 0) -> None:
        """Refuse what is no request for these slots.

        Raises:
            GPT2JaxError: as of :func:`gpt2jax.generate.request.check_request`; too many stop tokens; beams, which are
                no texts of their own.
        """
        check_request(number, request, self.config, self.end_of_text)
        if request.sampling.beams > 1:
            raise GPT2JaxError(f"beams: {request.sampling.beams}: should be 1; beam search is for 'gpt2jax generate'")
        stops = stop_tokens(request.sampling, self.end_of_text)
        if len(stops) > STOP_ROOM:
            raise GPT2JaxError(f"stop_tokens: {len(stops)} of them: should be at most {STOP_ROOM}")
        if not 0 <= alternatives <= self.alternatives:
            raise GPT2JaxError(f"logprobs: {alternatives}: should be 0 to {self.alternatives}")

    def cancel(self, text: Text) -> None:
        """Nobody waits for ``text`` any more: its place is free at the next turn, and its listener is told nothing."""
        with self._changed:
            text.cancelled = True
            self._changed.notify_all()

    def close(self, timeout: float | None = None) -> bool:
        """Take no more texts, write those that were taken to their ends, and stop.

        Returns:
            Whether all has ended within ``timeout`` seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def busy(self) -> int:
        """Slots that are taken."""
        return sum(text is not None for text in self._slots)

    def _new_cache(self, length: int) -> model.Cache:
        config = self.config
        shape = (len(self._slots), config.n_head, length, config.head_dim)
        dtype = model.compute_dtype(config)
        if self.place is None:
            return [{name: jnp.zeros(shape, dtype) for name in ("k", "v")} for _ in range(config.n_layer)]
        sharding = self.place.sharding("batch", "heads", None, None)
        zeros = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)
        return [{name: zeros() for name in ("k", "v")} for _ in range(config.n_layer)]

    def _warm(self) -> None:
        """Run every program once at every length of the cache, on nothing."""
        for length in self.lengths:
            self._resize(length)
            for size in self.pieces:
                logits_1V = self._read_piece(0, [0], 0, size)
            self._join(0, Row.of(Request((0,), SamplingConfig(max_new_tokens=1))), logits_1V, wanted=False)
            self._step(wanted=False)
        self._device = programs.release(self._device, jnp.asarray(0, jnp.int32))
        self._resize(self.lengths[0])

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
        except Exception as error:  # Whatever it is: nobody must wait for what will not come.
            self.failure = error
            with self._changed:
                left = [*self._queue, *(text for text in self._slots if text)]
                calls = [done for _, done in self._calls]
                self._queue.clear()
                self._calls.clear()
                self._slots = [None] * len(self._slots)
            for text in left:
                text.listener(error)
            for done in calls:
                if done.set_running_or_notify_cancel():
                    done.set_exception(error)

    def _wait(self) -> bool:
        """Until there is something to do; False when all is done and the scheduler closes."""
        with self._changed:
            while not self._queue and not self._calls and not any(self._slots):
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _turn(self) -> None:
        self._admit()
        self._fit()
        reading = [(slot, text) for slot, text in enumerate(self._slots) if text and text.read < len(text.prompt)]
        writing = any(text and text.read >= len(text.prompt) for text in self._slots)
        if reading:
            self._read(*min(reading, key=lambda one: one[1].submitted))
        if writing:
            self._write()
        self._call()

    def _call(self) -> None:
        with self._changed:
            if not self._calls:
                return
            work, done = self._calls.popleft()
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except GPT2JaxError as error:  # The caller's; anything else ends the server.
            done.set_exception(error)
        except Exception as error:
            done.set_exception(error)
            raise

    def _admit(self) -> None:
        with self._changed:
            for slot, text in enumerate(self._slots):
                if text and text.cancelled:
                    self._leave(slot)
            while self._queue and self._queue[0].cancelled:
                self._queue.popleft()
            for slot, text in enumerate(self._slots):
                if text is None and self._queue:
                    self._slots[slot] = self._queue.popleft()
            self.metrics.waiting(len(self._queue))

    def _leave(self, slot: int) -> None:
        self._device = programs.release(self._device, jnp.asarray(slot, jnp.int32))
        self._slots[slot] = None

    def _fit(self) -> None:
        """Make the caches as long as what is in them, and one turn more, needs."""
        needs = [self.lengths[0]]
        for text in self._slots:
            if text and text.read < len(text.prompt):
                needs.append(min(text.read + self.chunk, len(text.prompt)) + 1)
            elif text:
                needs.append(len(text.prompt) + len(text.row.tokens) - text.drawn_before + 1)
        self._resize(min(length for length in self.lengths if length >= min(max(needs), self.config.n_ctx)))

    def _resize(self, length: int) -> None:
        """By one length after the other, so that few programs are compiled."""
        while self._length != length:
            at = self.lengths.index(self._length)
            self._length = self.lengths[at + (1 if length > self._length else -1)]
            self._cache = programs.resize(self._cache, self._length, self.place)

    def _read(self, slot: int, text: Text) -> None:
        # The last piece ends where the cache does, if it would lie past it: it reads some of what was read once more.
        left = len(text.prompt) - text.read
        size = next((size for size in self.pieces if size >= left), self.chunk)
        at = min(text.read, self._length - size)
        piece = text.prompt[at : at + size]
        logits_1V = self._read_piece(slot, piece, at, size)
        text.read = at + len(piece)
        if text.read == len(text.prompt):
            drawn = self._join(slot, text.row, logits_1V, wanted=text.alternatives > 0)
            self._take(slot, text, _on_host(drawn), 0)

    def _read_piece(self, slot: int, piece: list[int], at: int, size: int) -> jax.Array:
        tokens_1C = np.zeros((1, size), np.int32)
        tokens_1C[0, : len(piece)] = piece
        logits_1V, self._cache = programs.read(
            self.writer.params,
            self._cache,
            jnp.asarray(tokens_1C),
            *(jnp.asarray(number, jnp.int32) for number in (slot, at, len(piece) - 1)),
            config=self.config,
            place=self.place,
        )
        return logits_1V

    def _join(self, slot: int, row: Row, logits_1V: jax.Array, *, wanted: bool) -> Drawn:
        self._device, drawn = programs.join(
            self._device,
            jnp.asarray(slot, jnp.int32),
            make_rows([row], 1, self.config, self.end_of_text, STOP_ROOM),
            make_history([row], 1, self.config),
            logits_1V,
            jnp.asarray(wanted),
            config=self.config,
            alternatives=self.alternatives,
        )
        return drawn

    def _write(self) -> None:
        writing = [text if text and text.read >= len(text.prompt) else None for text in self._slots]
        drawn = _on_host(self._step(wanted=any(text and text.alternatives for text in writing)))
        self.metrics.step(sum(text is not None for text in writing), len(writing))
        for slot, text in enumerate(writing):
            if text:
                self._take(slot, text, drawn, slot)

    def _step(self, *, wanted: bool) -> Drawn:
        unread_B = np.array([text.read if text else 0 for text in self._slots], np.int32)
        self._device, self._cache, drawn = programs.step(
            self.writer.params,
            self._device,
            self._cache,
            jnp.asarray(unread_B),
            jnp.asarray(wanted),
            config=self.config,
            alternatives=self.alternatives,
            place=self.place,
        )
        return drawn

    def _take(self, slot: int, text: Text, drawn: Drawn, at: int) -> None:
        """What was drawn in row ``at`` of ``drawn`` for ``text``."""
        row, top = text.row, None
        if text.alternatives:
            pairs = zip(drawn.top_token_BN[at], drawn.top_log_prob_BN[at], strict=True)
            top = [(int(token), float(value)) for token, value in list(pairs)[: text.alternatives]]
        stops = stop_tokens(text.request.sampling, self.end_of_text)
        row.take(int(drawn.token_B[at]), float(drawn.log_prob_B[at]), top, stops)
        if drawn.done_B[at]:
            row.close()
        self._tell(slot, text)

    def _tell(self, slot: int, text: Text) -> None:
        row, gained, tokens = text.row, "", []
        while text.told < len(row.tokens) and not text.stream.ended:
            number = text.told
            top = row.top[number] if text.alternatives else []
            tokens.append(Token(row.tokens[number], row.log_probs[number], top))
            gained += text.stream.add(row.tokens[number])
            text.told += 1
        if text.stream.ended:
            row.finish = "stop"
            self._leave(slot)
        elif will_go_on(row):
            # The last half of the context is the prompt of what follows; the slot stays its own.
            row.finish, text.prompt, text.read, text.drawn_before = (
                None,
                window(row, self.config.n_ctx),
                0,
                len(row.tokens),
            )
        elif row.finish:
            gained += text.stream.finish()
            self._slots[slot] = None
        now = time.perf_counter()
        self.metrics.token(now - (text.latest or text.submitted), first=not text.latest)
        text.latest = now
        if not text.cancelled:
            text.listener(Piece(gained, tokens, row.finish, row.stop_log_prob))


def _on_host(drawn: Drawn) -> Drawn:
    return Drawn(*map(np.asarray, drawn))  # type: ignore[arg-type]


def _lengths(chunk: int, n_ctx: int) -> list[int]:
    """Of caches: powers of two that a piece of a prompt fits into, to the context."""
    lengths = [SMALLEST_BUCKET]
    while lengths[-1] < n_ctx:
        lengths.append(lengths[-1] * 2)
    fitting = {min(length, n_ctx) for length in lengths}
    return sorted(length for length in fitting if length >= chunk)
