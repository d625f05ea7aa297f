"""Who is in which slot: a queue in front of the slots, and the one thread that drives them.

A turn reads a piece of a long prompt or a few short ones, so that none stalls the others for long, and draws one token
for every text that is being written. Texts are told what they gain as it comes, whole characters only.
"""

import collections
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.batch import will_go_on, window
from gpt2jax.generate.request import Request, Row, check_request, stop_tokens
from gpt2jax.generate.stream import TextStream
from gpt2jax.generate.text import TextModel
from gpt2jax.serve.batch import STOP_ROOM, Batch
from gpt2jax.serve.metrics import Metrics
from gpt2jax.serve.slots import Drawn
from gpt2jax.serve.texts import ClosedError, Listener, Piece, QueueFullError, Text, Token
from gpt2jax.tokenizer import end_of_text

T = TypeVar("T")

# Turns in which there were more slots, or longer caches, than needed, before there are fewer: a change copies them.
PATIENCE = 16


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
            slots: texts that are read and written at once.
            queue: texts that may wait beside them.
            chunk: tokens of prompts that are read between two steps.
            alternatives: most probable tokens that may be asked for at each place.
        """
        self.writer, self.config = writer, writer.config
        self.end_of_text = end_of_text(writer.encoding)
        self.alternatives, self.metrics = min(alternatives, writer.config.n_vocab), metrics or Metrics()
        self._most, self._room = slots, queue
        self._batch = Batch(
            writer.params,
            writer.config,
            most=slots,
            chunk=chunk,
            alternatives=self.alternatives,
            end_of_text=self.end_of_text,
            place=writer.place,
        )
        self._queue: collections.deque[Text] = collections.deque()
        self._unread: list[Text] = []  # The first of them is being read.
        self._joins: Text | None = None  # Between being read and having a slot.
        self._slots: list[Text | None] = [None] * self._batch.rows
        self._roomy = 0  # Turns with more room than needed.
        self._calls: collections.deque[tuple[Callable[[], Any], Future[Any]]] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self.ready = False
        """Whether all programs are compiled."""
        self.failure: Exception | None = None
        """What ended the thread, if anything has."""
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self, warm: Iterable[Callable[[], Any]] = ()) -> None:
        """Compile all programs and begin to take turns; until then texts wait. Closed meanwhile, it ends early.

        Args:
            warm: compile the programs of what :meth:`call` will be asked for.
        """
        try:
            for _ in itertools.chain((one() for one in warm), self._batch.warm()):
                if self._closing:
                    return
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
            if waiting + len(texts) > self._room + self._most - self.busy:
                raise QueueFullError(f"queue: {waiting} texts wait, and {len(texts)} more would: {self._room} may")
            self._queue.extend(texts)
            self._changed.notify_all()
        return texts

    def call(self, works: list[Callable[[], T]]) -> "list[Future[T]]":
        """Have other work done on the device, one piece of it in a turn; or none of it if there is no room for all.

        Raises:
            QueueFullError, ClosedError: as :meth:`submit`.
        """
        calls = [(work, Future[T]()) for work in works]
        with self._changed:
            self._check_open()
            waiting = sum(not done.cancelled() for _, done in self._calls)
            if waiting + len(calls) > self._room + 1:
                raise QueueFullError(f"queue: {waiting} inputs wait, and {len(calls)} more would: {self._room} may")
            self._calls.extend(calls)
            self._changed.notify_all()
        return [done for _, done in calls]

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
        """Texts that are being read or written."""
        return len(self._unread) + sum(text is not None for text in (self._joins, *self._slots))

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
        except Exception as error:  # Whatever it is: nobody must wait for what will not come.
            self.failure = error
            with self._changed:
                held = (text for text in (self._joins, *self._slots) if text)
                left = dict.fromkeys([*self._queue, *self._unread, *held])
                calls = [done for _, done in self._calls]
                self._queue.clear()
                self._unread.clear()
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
            while not (self._queue or self._calls or self.busy):
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _turn(self) -> None:
        self._admit()
        self._fit()
        writing = any(self._slots)
        self._read()
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
                    self._batch.release(slot)
                    self._slots[slot] = None
            self._unread = [text for text in self._unread if not text.cancelled]
            self._queue = collections.deque(text for text in self._queue if not text.cancelled)
            while self._queue and self.busy < self._most:
                self._unread.append(self._queue.popleft())
            self.metrics.waiting(len(self._queue))

    def _fit(self, joins: Text | None = None) -> None:
        """Have as many slots and as long caches as the texts that are being written, and the one that ``joins`` them,
        need for one step."""
        taken = [slot for slot, text in enumerate(self._slots) if text]
        texts = [text for text in (*self._slots, joins) if text]
        needs = [len(text.prompt) + len(text.row.tokens) - text.drawn_before + 1 for text in texts]
        if joins:
            needs.append(self._batch.own_length)
        rows, length = self._batch.fitting(max(len(texts), 1), max(needs, default=1))
        roomy = rows < self._batch.rows or length < self._batch.length
        if not joins:
            self._roomy = self._roomy + 1 if roomy else 0
        if taken and (joins or self._roomy < PATIENCE):
            rows, length = max(rows, self._batch.rows), max(length, self._batch.length)
        if rows < self._batch.rows:
            self._slots = [self._slots[slot] for slot in taken]
        self._batch.resize(taken, rows, length)
        self._slots += [None] * (rows - len(self._slots))

    def _read(self) -> None:
        """Read some of what is unread; texts whose prompts have been read get their first tokens, and slots."""
        left = self._batch.pieces[-1]
        while self._unread:
            text = self._unread[0]
            unread = len(text.prompt) - text.read
            size = next((one for one in self._batch.pieces if one >= unread), self._batch.pieces[-1])
            if size > left:
                return
            left -= size
            # The last piece ends where the context does, if it would lie past it: it reads some of it once more.
            at = min(text.read, self.config.n_ctx - size)
            piece = text.prompt[at : at + size]
            logits_1V = self._batch.read(piece, at, size)
            text.read = at + len(piece)
            if text.read == len(text.prompt):
                self._joins = self._unread.pop(0)
                drawn = _on_host(self._batch.first(text.row, logits_1V, wanted=text.alternatives > 0))
                if self._take(text, drawn, 0):
                    self._fit(text)
                    slot = self._slots.index(None)
                    self._batch.put(slot)
                    self._slots[slot] = text
                self._joins = None

    def _write(self) -> None:
        """Draw a token of each text that has a slot."""
        drawn = _on_host(self._batch.step(wanted=any(text and text.alternatives for text in self._slots)))
        self.metrics.step(sum(text is not None for text in self._slots), self._most)
        for slot, text in enumerate(self._slots):
            if text and not self._take(text, drawn, slot):
                self._slots[slot] = None
                if not drawn.done_B[slot]:
                    self._batch.release(slot)

    def _take(self, text: Text, drawn: Drawn, at: int) -> bool:
        """What was drawn in row ``at`` of ``drawn`` for ``text``; whether it goes on where it is."""
        row, top = text.row, None
        if text.alternatives:
            pairs = zip(drawn.top_token_BN[at], drawn.top_log_prob_BN[at], strict=True)
            top = [(int(token), float(value)) for token, value in list(pairs)[: text.alternatives]]
        stops = stop_tokens(text.request.sampling, self.end_of_text)
        row.take(int(drawn.token_B[at]), float(drawn.log_prob_B[at]), top, stops)
        if drawn.done_B[at]:
            row.close()
        return self._tell(text)

    def _tell(self, text: Text) -> bool:
        row, gained, tokens, slides = text.row, "", [], will_go_on(text.row)
        while text.told < len(row.tokens) and not text.stream.ended:
            number = text.told
            top = row.top[number] if text.alternatives else []
            tokens.append(Token(row.tokens[number], row.log_probs[number], top))
            gained += text.stream.add(row.tokens[number])
            text.told += 1
        if text.stream.ended:
            row.finish = "stop"
        elif slides:
            # The last half of the context is the prompt of what follows. It is read next, but not amid another.
            row.finish, text.prompt, text.read = None, window(row, self.config.n_ctx), 0
            text.drawn_before = len(row.tokens)
            self._unread.insert(1 if self._unread and self._unread[0].read else 0, text)
        elif row.finish:
            gained += text.stream.finish()
        now = time.perf_counter()
        self.metrics.token(now - (text.latest or text.submitted), first=not text.latest)
        text.latest = now
        if not text.cancelled:
            text.listener(Piece(gained, tokens, row.finish, row.stop_log_prob))
        return not (slides or row.finish)


def _on_host(drawn: Drawn) -> Drawn:
    return Drawn(*map(np.asarray, drawn))  # type: ignore[arg-type]
