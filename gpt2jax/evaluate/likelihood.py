"""The likelihood engine: log-probabilities of rows of tokens, in batches, on any mesh.

Rows come as a stream and go by shape: each waits in the bucket of its length and of how many of its tokens are scored,
until the bucket makes a whole batch. Only positions that are scored go through the vocabulary's head, a chunk of them
at a time. Results come back in order.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import digest, model
from gpt2jax.config import MeshConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.journal import Journal
from gpt2jax.evaluate.rows import Row, Scored
from gpt2jax.generate.engine import log_probs
from gpt2jax.ops import map_positions
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Weights, load_params

# Last positions of a row that the head is computed for; where more are scored, it is computed for all.
TAILS = (8, 32, 128, 512)
# Positions whose logits exist at once on a device: few on CPU, where they are read again while caches hold them.
CHUNK = {"cpu": 128, "gpu": 1024, "tpu": 1024}
# Batches that may be read while an earlier row still waits for its own to fill; then it goes with what there is.
PATIENCE = 16
# Batches sent to the device of which none has been read: it has work while the host reads one.
IN_FLIGHT = 2
# Tokens that a device reads at once: few on CPU, whose caches more would overflow.
BATCH_TOKENS = {"cpu": 2048, "gpu": 16384, "tpu": 16384}
# A batch of what is left over in a bucket has this part of the rows of a whole one.
PART = 8

ComputeDtype = Literal["float32", "bfloat16"]


class Shape(NamedTuple):
    """What a row is padded to."""

    length: int
    """Tokens that are read."""
    tail: int
    """Last ones of them whose next token may be scored."""


class _Batch(NamedTuple):
    """On the device."""

    shape: Shape
    rows: list[tuple[int, Row]]
    """With their numbers."""
    arrays: tuple[jax.Array, jax.Array, jax.Array]


class Scorer:
    """A model ready to score.

    Exact to float rounding: logits and log-probabilities are float32, and products of float32 are made in full
    precision on every platform. What a row is batched with, and its padding, change nothing else.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        place: Partition | None = None,
        *,
        compute_dtype: ComputeDtype = "float32",
        batch_tokens: int | None = None,
        banned: Iterable[int] = (),
    ) -> None:
        """
        Args:
            params: stacked, as :func:`gpt2jax.load` gives them.
            place: the mesh to compute on; by default the first device. Of several processes each must score the same
                rows.
            compute_dtype: of the matrix products.
            batch_tokens: tokens that are read at once in each part that the mesh cuts a batch into, or one row of
                more; by default those of ``BATCH_TOKENS``.
            banned: tokens that are never the most probable one (a filter of stop words); log-probabilities stay what
                they are without it.

        Raises:
            GPT2JaxError: the mesh does not divide the model, or a banned token is not in its vocabulary.
        """
        if batch_tokens is not None and batch_tokens < 1:
            raise GPT2JaxError(f"batch_tokens: {batch_tokens}: should be at least 1")
        self.place = place or _one_device()
        self.place.check(config)
        platform = self.place.mesh.devices.flat[0].platform
        self.batch_tokens = batch_tokens or BATCH_TOKENS[platform]
        self._chunk = CHUNK[platform]
        self.banned = sorted(set(banned))
        for token in self.banned:
            if not 0 <= token < config.n_vocab:
                raise GPT2JaxError(f"banned: {token}: is outside of the vocabulary of {config.n_vocab:,}")
        # The kernel that a model was trained with may not be here, nor take every length.
        attention = config.attention if config.attention == "xla" else "auto"
        self.config = dataclasses.replace(
            config, compute_dtype=compute_dtype, attention=attention, dropout=0.0, remat="none"
        )
        self.params = jax.device_put(params, self.place.params())
        self._allowed_V = None
        if self.banned:
            allowed_V = np.arange(config.padded_vocab) < config.n_vocab
            allowed_V[self.banned] = False
            self._allowed_V = self._put(allowed_V)

    @classmethod
    def load(
        cls,
        source: str | Path | Weights,
        mesh: MeshConfig | None = None,
        *,
        compute_dtype: ComputeDtype = "float32",
        batch_tokens: int | None = None,
        banned: Iterable[int] = (),
    ) -> Self:
        """Of any GPT-2 (:func:`gpt2jax.weights.sources.open_weights`), its parameters read straight to their shards.

        Args:
            source: a path, a name, or weights that are open already.
            mesh: the devices to compute on; by default one.

        Raises:
            GPT2JaxError: there is none, or as the constructor.
        """
        weights = source if isinstance(source, Weights) else open_weights(source)
        place = Partition(make_mesh(mesh)) if mesh else _one_device()
        params, config = load_params(weights, place), weights.config
        return cls(params, config, place, compute_dtype=compute_dtype, batch_tokens=batch_tokens, banned=banned)

    def score_all(
        self,
        rows: Iterable[Row],
        journal: Journal | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> Generator[Scored]:
        """What the model makes of each of ``rows``, in their order.

        Rows are taken as they are needed, those of some batches before the results of the first of them.

        Args:
            journal: keeps the results; those that it has are not computed again.
            progress: told how many tokens were read, ``forward`` of :class:`gpt2jax.evaluate.rows.Counts`, and the
                speed (:func:`gpt2jax.progress.counter`).

        Raises:
            GPT2JaxError: a row with a token outside of the vocabulary, or too long for the context; the journal cannot
                be written.
        """
        start, computed, done = time.perf_counter(), 0, 0

        def compute(rows: Iterable[Row]) -> Generator[tuple[Row, Scored]]:
            nonlocal computed
            for row, scored in self._compute(rows):
                computed += len(row.tokens) - 1
                yield row, scored

        results = journal.through(rows, compute, self.fingerprint) if journal else compute(rows)
        # Closed, not left to the end of the program: what the journal then writes needs the devices.
        with contextlib.closing(results):
            for row, scored in results:
                done += len(row.tokens) - 1
                if progress:
                    progress(done, f"{computed / (time.perf_counter() - start):,.0f} tokens/s")
                yield scored

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for scorers whose results are the same to float rounding. Every process of several must ask for it."""
        config = vars(self.config) | {"scan_unroll": max(self.config.scan_unroll, 1)}  # What 0 scores by.
        told = [config, self.banned, digest.of_arrays(digest.paths(self.params))]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def shape(self, row: Row) -> Shape:
        """The bucket of ``row``: lengths 64, 96, 128, 192, ... to the context; tails as in ``TAILS``."""
        read, length, step = len(row.tokens) - 1, 64, 32
        while length < read:
            length += step
            step *= 2 if length == 4 * step else 1
        length = min(length, self.config.n_ctx)
        scored = len(row.tokens) - row.first
        return Shape(length, next((tail for tail in TAILS if scored <= tail < length), length))

    def _compute(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Scored]]:
        waiting: dict[Shape, list[tuple[int, Row]]] = {}
        sent: collections.deque[_Batch] = collections.deque()
        done: dict[int, tuple[Row, Scored]] = {}
        turn = late = 0  # Whose result is next, and how many batches have been read since it could have come.
        for number, row in enumerate(rows):
            self._check(number, row)
            shape = self.shape(row)
            bucket = waiting.setdefault(shape, [])
            bucket.append((number, row))
            if len(bucket) == self._batch_rows(shape):
                sent.append(self._send(shape, waiting.pop(shape)))
            while len(sent) > IN_FLIGHT:
                done |= self._read(sent.popleft())
                late += 1
            while turn in done:
                yield done.pop(turn)
                turn, late = turn + 1, 0
            if late >= PATIENCE:
                for some in [some for some, bucket in waiting.items() if bucket[0][0] == turn]:
                    sent.extend(self._send_rest(some, waiting.pop(some)))
        for shape, bucket in waiting.items():
            sent.extend(self._send_rest(shape, bucket))
        while sent:
            done |= self._read(sent.popleft())
            while turn in done:
                yield done.pop(turn)
                turn += 1

    def _check(self, number: int, row: Row) -> None:
        count, config = len(row.tokens), self.config
        if not 2 <= count <= config.n_ctx + 1:
            allowed = f"2 to {config.n_ctx + 1:,}, the context and the token after it"
            raise GPT2JaxError(f"row {number + 1:,}: {count:,} tokens: should be {allowed}")
        if not 1 <= row.first < count:
            raise GPT2JaxError(f"row {number + 1:,}: first: {row.first}: should be 1 to {count - 1}")
        if not 0 <= row.tokens.min() <= row.tokens.max() < config.n_vocab:
            raise GPT2JaxError(f"row {number + 1:,}: a token outside of the vocabulary of {config.n_vocab:,}")

    def _batch_rows(self, shape: Shape, part: int = 1) -> int:
        """Of a whole batch, or of a part of one: a multiple of what the mesh cuts it into."""
        over = self.place.size(self.place.rules.batch)
        return max(self.batch_tokens // shape.length // part, 1) * over

    def _send_rest(self, shape: Shape, rows: list[tuple[int, Row]]) -> Iterator[_Batch]:
        """What does not fill a batch, in small ones, so that little is padding, or, where it nearly does, in one."""
        size = self._batch_rows(shape, PART)
        if 2 * len(rows) > self._batch_rows(shape):
            size = self._batch_rows(shape)
        for first in range(0, len(rows), size):
            yield self._send(shape, rows[first : first + size], size)

    def _send(self, shape: Shape, rows: list[tuple[int, Row]], size: int = 0) -> _Batch:
        tokens_BT1 = np.zeros((size or len(rows), shape.length + 1), np.int32)
        first_B = np.zeros(len(tokens_BT1), np.int32)
        for at, (_, row) in enumerate(rows):
            tokens_BT1[at, : len(row.tokens)] = row.tokens
            first_B[at] = max(len(row.tokens) - 1 - shape.tail, 0)
        cut = self.place.size(self.place.rules.batch)
        arrays = _scores(
            self.params,
            self._put(tokens_BT1, "batch", None),
            self._put(first_B, "batch"),
            self._allowed_V,
            config=self.config,
            tail=shape.tail,
            chunk=max(self._chunk * cut // len(tokens_BT1), 1),
            place=self.place,
        )
        return _Batch(shape, rows, arrays)

    def _read(self, batch: _Batch) -> dict[int, tuple[Row, Scored]]:
        log_prob_BS, greedy_BS, argmax_BS = map(np.asarray, batch.arrays)
        found = {}
        for at, (number, row) in enumerate(batch.rows):
            stop = min(len(row.tokens) - 1, batch.shape.tail)
            some = slice(stop - (len(row.tokens) - row.first), stop)
            # Copies: a view would keep the whole batch.
            scored = Scored(log_prob_BS[at, some].copy(), greedy_BS[at, some].copy(), argmax_BS[at, some].copy())
            found[number] = row, scored
        return found

    def _put(self, array: np.ndarray, *axes: str | None) -> jax.Array:
        sharding = self.place.sharding(*axes)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _one_device() -> Partition:
    return Partition(make_mesh(MeshConfig(), jax.local_devices()[:1]))


@functools.partial(jax.jit, static_argnames=("config", "tail", "chunk", "place"))
def _scores(
    params: Params,
    tokens_BT1: jax.Array,
    first_B: jax.Array,
    allowed_V: jax.Array | None,
    *,
    config: ModelConfig,
    tail: int,
    chunk: int,
    place: Partition,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of the tokens after the ``tail`` positions from ``first_B`` on: log-probabilities [B, S] (float32), whether each
    is the most probable one of ``allowed_V`` (bool; None: of the vocabulary), and of the vocabulary; whole on every
    device."""
    place_BS = first_B[:, None] + jnp.arange(tail, dtype=jnp.int32)[None, :]
    target_BS = jnp.take_along_axis(tokens_BT1, place_BS + 1, axis=1)
    # The token table, gathered over fsdp alone and once, for embedding and logits.
    params = params | {"wte": place.constrain(params["wte"], "logits", "table")}
    number_V = jnp.arange(config.padded_vocab, dtype=jnp.int32)

    def score(x_BCD: jax.Array, target_BC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits_BCV = model.logits(params, x_BCD, place)
        log_prob_BC, _, _ = log_probs(logits_BCV, target_BC, 0, config)
        own_BC1 = jnp.take_along_axis(logits_BCV, target_BC[..., None], axis=-1)
        before_BCV = number_V[None, None] < target_BC[..., None]
        better_BCV = (logits_BCV > own_BC1) | ((logits_BCV == own_BC1) & before_BCV)
        # Not argmax, which no CPU vectorises: in one pass, whether there is a better one.
        number_BC = jnp.isfinite(own_BC1[..., 0])
        most_BC = ~jnp.any(better_BCV & (number_V < config.n_vocab)[None, None], axis=-1) & number_BC
        if allowed_V is None:
            return log_prob_BC, most_BC, most_BC
        greedy_BC = ~jnp.any(better_BCV & allowed_V[None, None], axis=-1) & allowed_V[target_BC] & number_BC
        return log_prob_BC, greedy_BC, most_BC

    with jax.default_matmul_precision("highest"):
        x_BTD = model.final_states(params, tokens_BT1[:, :-1], config, partition=place)
        x_BSD = x_BTD if tail == x_BTD.shape[1] else jnp.take_along_axis(x_BTD, place_BS[..., None], axis=1)
        found = map_positions(score, chunk, x_BSD, target_BS)
    log_prob_BS, greedy_BS, most_BS = (place.constrain(array_BS, None, None) for array_BS in found)
    return log_prob_BS, greedy_BS, most_BS
