"""What is to be scored: a row of tokens, and from where on; what comes of it; the ways to cut a stream into rows."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt2jax.errors import GPT2JaxError

Tokens = np.ndarray | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Row:
    """A model reads ``tokens[:-1]``; the log-probabilities of ``tokens[first:]`` are asked for."""

    tokens: np.ndarray
    """int32 [n], 2 <= n <= context + 1."""
    first: int
    """1 <= first < n."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model makes of a row."""

    log_probs: np.ndarray
    """float32 [n - first]: of each of ``tokens[first:]`` given all before it in the row, in nats."""
    greedy: np.ndarray
    """bool [n - first]: whether it is the most probable token but for those that are banned; a banned one never is."""
    argmax: np.ndarray
    """bool [n - first]: whether it is the most probable of all tokens; of equals, the first is."""


class Counts(NamedTuple):
    """What a stream comes to, for an estimate."""

    rows: int
    forward: int
    """Tokens that the model reads, those of all rows."""
    scored: int


def strided(tokens: Tokens, window: int, stride: int, prefix: int | None = None) -> Iterator[Row]:
    """Overlapping windows: they begin at 0, ``stride``, 2 ``stride``, ...; each scores what none before it has.

    The first window scores all that it holds, each later one its last ``stride`` tokens, the last one, which ends with
    the stream, what is left. Where ``stride`` is ``window`` a row begins a token early, so that its first token, too,
    has one before it. Rows have at most ``window`` tokens (``window`` + 1 in that last case).

    Args:
        tokens: integers [T].
        window: at most the model's context.
        stride: 1 (each token with all the context there is) to ``window`` (no overlap).
        prefix: a token that comes before the stream, as if it were its first, so that ``tokens[0]`` is scored too;
            None leaves ``tokens[0]`` unscored.

    Raises:
        GPT2JaxError: a window below 2, another stride, or a stream in which nothing can be scored.
    """
    stream = _stream(tokens, prefix)
    _check_strided(len(stream), window, stride)
    return (Row(stream[start:stop], first - start) for start, first, stop in _spans(len(stream), window, stride))


def count_strided(length: int, window: int, stride: int, prefix: int | None = None) -> Counts:
    """Of what :func:`strided` makes of ``length`` tokens: ceil((T - window) / stride) + 1 rows, T with the prefix.

    Raises:
        GPT2JaxError: as :func:`strided`.
    """
    length += prefix is not None
    _check_strided(length, window, stride)
    later = max(0, math.ceil((length - window) / stride))
    early = int(stride == window)
    forward = min(window, length) - 1
    if later:
        forward += (later - 1) * (window - 1 + early) + length - later * stride - 1 + early
    return Counts(later + 1, forward, length - 1)


def _spans(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Of each window: where its row starts, where it begins to score, where it stops."""
    scored, start = 1, 0
    while scored < length:
        stop = min(start + window, length)
        yield min(start, scored - 1), scored, stop
        scored, start = stop, start + stride


def rolling(tokens: Tokens, window: int, prefix: int) -> Iterator[Row]:
    """Windows in the manner of lm-evaluation-harness (``get_rolling_token_windows``, context 1): each scores the
    next ``window`` tokens after the one before them, the last one what is left, with as much context as fits.

    Args:
        tokens: integers [T].
        window: at most the model's context.
        prefix: the token before the first; the harness takes ``<|endoftext|>``.

    Raises:
        GPT2JaxError: a window below 1, or an empty stream.
    """
    stream = _stream(tokens, prefix)
    _check_rolling(len(stream) - 1, window)
    return (Row(stream[start:stop], first - start) for start, first, stop in _turns(len(stream), window))


def count_rolling(length: int, window: int) -> Counts:
    """Of what :func:`rolling` makes of ``length`` tokens.

    Raises:
        GPT2JaxError: as :func:`rolling`.
    """
    _check_rolling(length, window)
    rows = math.ceil(length / window)
    return Counts(rows, length if rows == 1 else rows * window, length)


def _turns(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    for first in range(1, length, window):
        stop = min(first + window, length)
        yield max(0, stop - window - 1), first, stop


def pair(context: Tokens, continuation: Tokens, window: int, prefix: int | None = None) -> Row:
    """A continuation after its context, whose beginning is dropped where both do not fit.

    Args:
        context: integers; can be empty if there is a prefix.
        continuation: integers, 1 to ``window`` of them; all are scored.
        window: at most the model's context.
        prefix: a token before the context, dropped with its beginning.

    Raises:
        GPT2JaxError: the continuation is empty or too long, or nothing comes before it.
    """
    after = _stream(continuation, None)
    before = _stream(context, prefix)
    if not 1 <= len(after) <= window:
        raise GPT2JaxError(f"continuation: {len(after):,} tokens: should be 1 to the window, {window:,}")
    if not len(before):
        raise GPT2JaxError("context: is empty: should have a token, or a prefix")
    before = before[-(window + 1 - len(after)) :]
    return Row(np.concatenate([before, after]), len(before))


def _stream(tokens: Tokens, prefix: int | None) -> np.ndarray:
    given = np.asarray(tokens)
    stream = given.astype(np.int32)
    if given.ndim != 1 or (given.size and (given.dtype.kind not in "iu" or (stream != given).any())):
        raise GPT2JaxError(f"tokens: {given.dtype} of shape {given.shape}: should be one sequence of 32-bit integers")
    return stream if prefix is None else np.concatenate([np.array([prefix], np.int32), stream])


def _check_strided(length: int, window: int, stride: int) -> None:
    if window < 2:
        raise GPT2JaxError(f"window: {window}: should be at least 2")
    if not 1 <= stride <= window:
        raise GPT2JaxError(f"stride: {stride}: should be 1 to the window, {window}")
    if length < 2:
        raise GPT2JaxError(f"tokens: {length} with the prefix: nothing can be scored in fewer than 2")


def _check_rolling(length: int, window: int) -> None:
    if window < 1:
        raise GPT2JaxError(f"window: {window}: should be at least 1")
    if not length:
        raise GPT2JaxError("tokens: none: nothing can be scored")
