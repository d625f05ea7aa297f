"""The device's half of serving: the slots as they are now, and the one prompt that is read.

There are as few slots and as short caches as the texts that are being written need: a step of one row takes a fraction
of one of sixteen. Both grow and shrink in a few sizes, whose programs are compiled at the start.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.batch import make_rows
from gpt2jax.generate.request import Request, Row, make_history
from gpt2jax.generate.shapes import SMALLEST_BUCKET, least_rows
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.serve import slots as programs
from gpt2jax.serve.slots import Drawn, Slots

# Tokens of the smaller pieces: what is read of a short prompt, or of the end of a long one.
SHORT = 16
# Stop tokens that there is room for in a slot.
STOP_ROOM = 16
# From one number of slots to the next larger one: with more between, more would be compiled and little gained.
FACTOR = 4


class Batch:
    """Slots on the device.

    Attributes:
        rows: slots that there are now.
        length: positions of their caches.
        own_length: positions of the cache that prompts are read into.
        counts, lengths, pieces: all sizes of these, and of the pieces of prompts.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        *,
        most: int,
        chunk: int,
        alternatives: int,
        end_of_text: int | None,
        place: Partition | None,
    ) -> None:
        """
        Args:
            params: from :func:`gpt2jax.generate.engine.decoding_params`.
            most: slots that are wanted at most.
            chunk: tokens of the larger pieces of prompts.
            alternatives: most probable tokens that are noted where wanted.
        """
        self._params, self._config, self._place = params, config, place
        self._alternatives, self._end_of_text = alternatives, end_of_text
        self.pieces = sorted({min(SHORT, chunk, config.n_ctx), min(chunk, config.n_ctx)})
        self.lengths = _lengths(self.pieces[-1], config.n_ctx)
        self.counts = _counts(most, place.size(place.rules.batch) if place else 1)
        self.rows, self.length = self.counts[0], self.lengths[0]
        nobody = [Row.of(Request((0,), SamplingConfig()))] * self.rows
        self._slots = programs.choose(self._new(nobody), _indices(range(self.rows)), jnp.ones(self.rows, bool), place)
        self._cache = programs.empty_cache(config, self.rows, self.length, place)
        self.own_length = self.lengths[0]
        self._own = programs.empty_cache(config, 1, self.own_length, place)
        self._one: Slots | None = None

    def read(self, piece: list[int], at: int, size: int) -> jax.Array:
        """Read a piece of a prompt: logits [1, V] after its last token.

        Args:
            at: position of its first token; 0 begins a new prompt.
            size: of ``pieces``, what it is filled up to; within the context.
        """
        length = self._fitting(at + size)
        if at == 0 and length != self.own_length:
            self._own = programs.empty_cache(self._config, 1, length, self._place)
            self.own_length = length
        while self.own_length < length:
            self.own_length = self.lengths[self.lengths.index(self.own_length) + 1]
            self._own = programs.resize(self._own, _indices([0]), self.own_length, self._place)
        tokens_1C = np.zeros((1, size), np.int32)
        tokens_1C[0, : len(piece)] = piece
        logits_1V, self._own = programs.read(
            self._params,
            self._own,
            jax.device_put(tokens_1C),
            jax.device_put(np.int32(at)),
            jax.device_put(np.int32(len(piece) - 1)),
            config=self._config,
            place=self._place,
        )
        return logits_1V

    def first(self, row: Row, logits_1V: jax.Array, *, wanted: bool) -> Drawn:
        """Draw the first token of the text whose prompt has been read."""
        self._one, drawn = self._draw(self._new([row]), logits_1V, wanted)
        return drawn

    def put(self, slot: int) -> None:
        """Give ``slot`` to the text whose first token has been drawn, in caches that are long enough for it."""
        at, one, self._one = jax.device_put(np.int32(slot)), self._one, None
        assert one is not None
        self._slots, self._cache = programs.put(self._slots, self._cache, at, one, self._own, self._place)

    def step(self, *, wanted: bool) -> Drawn:
        """Draw one more token in every slot that is not free."""
        logits_BV, self._cache = programs.decode(
            self._params, self._slots, self._cache, config=self._config, place=self._place
        )
        self._slots, drawn = self._draw(self._slots, logits_BV, wanted)
        return drawn

    def release(self, slot: int) -> None:
        """End the text of ``slot``."""
        self._slots = programs.release(self._slots, jax.device_put(np.int32(slot)), self._place)

    def resize(self, kept: Sequence[int], rows: int, length: int) -> None:
        """``rows`` slots, with caches of ``length`` positions. Where there were more, their first are those that are
        ``kept``, in this order, and the others are free.

        By one size after the other, fewer slots before other lengths and more after them, so that few programs are
        compiled and little is copied.
        """
        while self.rows > rows:
            self._choose(kept, self.counts[self.counts.index(self.rows) - 1])
            kept = range(len(kept))
        while self.length != length:
            at = self.lengths.index(self.length)
            self.length = self.lengths[at + (1 if length > self.length else -1)]
            self._cache = programs.resize(self._cache, _indices(range(self.rows)), self.length, self._place)
        while self.rows < rows:
            self._choose(range(self.rows), self.counts[self.counts.index(self.rows) + 1])

    def fitting(self, rows: int, length: int) -> tuple[int, int]:
        """The least sizes that have this many slots of caches this long."""
        return next(count for count in self.counts if count >= rows), self._fitting(length)

    def warm(self) -> Iterator[None]:
        """Run every program once in every size, on nothing; a step of the iterator for each few of them."""
        for at, length in enumerate(self.lengths):
            for size in self.pieces:
                logits_1V = self.read([0], length - size, size)  # Past the first, in the cache of the one before.
                yield
            for rows in self.counts:
                self.resize([], rows, length)
                self.step(wanted=False)
                for own in self.lengths[: at + 1]:
                    self.first(Row.of(Request((0,), SamplingConfig(max_new_tokens=1))), logits_1V, wanted=False)
                    self._own = programs.empty_cache(self._config, 1, own, self._place)
                    self.put(0)
                self.release(0)
                yield
            self.own_length = length
            self.resize([], self.counts[0], length)
        for rows in self.counts[1:]:
            self.resize([], rows, self.lengths[-1])
            self.resize([], rows, self.lengths[0])
            self.resize([], rows, self.lengths[-1])
            yield
        self.resize([], self.counts[0], self.lengths[0])

    def _new(self, rows: list[Row]) -> Slots:
        count = len(rows)
        return programs.new(
            make_rows(rows, count, self._config, self._end_of_text, STOP_ROOM), make_history(rows, count, self._config)
        )

    def _draw(self, slots: Slots, logits_BV: jax.Array, wanted: bool) -> tuple[Slots, Drawn]:
        return programs.draw(
            slots,
            logits_BV,
            jax.device_put(np.bool_(wanted)),
            config=self._config,
            alternatives=self._alternatives,
            place=self._place,
        )

    def _choose(self, kept: Sequence[int], rows: int) -> None:
        free = rows - len(kept)
        from_B = _indices([*kept, *[0] * free])
        self._slots = programs.choose(self._slots, from_B, jax.device_put(np.arange(rows) >= len(kept)), self._place)
        self._cache = programs.resize(self._cache, from_B, self.length, self._place)
        self.rows = rows

    def _fitting(self, length: int) -> int:
        return next(one for one in self.lengths if one >= min(length, self.lengths[-1]))


def _indices(values: Sequence[int]) -> jax.Array:
    return jax.device_put(np.array(values, np.int32))


def _lengths(chunk: int, n_ctx: int) -> list[int]:
    """Of caches: powers of two that a piece of a prompt fits into, to the context."""
    lengths = [SMALLEST_BUCKET]
    while lengths[-1] < n_ctx:
        lengths.append(lengths[-1] * 2)
    fitting = {min(length, n_ctx) for length in lengths}
    return sorted(length for length in fitting if length >= chunk)


def _counts(most: int, over: int) -> list[int]:
    """Of slots: each some times the one before it, to ``most``; all multiples of ``over``, the mesh's share, and none
    fewer than :func:`least_rows`."""
    counts = [over]
    while counts[-1] < most:
        counts.append(min(counts[-1] * FACTOR, -(-most // over) * over))
    return sorted({max(count, least_rows()) for count in counts})
