"""Shapes that work is padded to, so that few programs are compiled, and who is computed with whom."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from gpt2jax.partition import Partition

SMALLEST_BUCKET = 64


def bucket(length: int, n_ctx: int, rows: int = 1) -> int:
    """The shape that ``length`` is padded to: the next power of two from 64 on, at most ``n_ctx``.

    Several rows, each of which is padded (up to a fifth of what decoding takes on a CPU, benchmarks/log.md), have finer
    buckets: from 32 on, and from 64 on also one and a half of each.
    """
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    if rows > 1:
        smaller = size // 2 if size == SMALLEST_BUCKET else size * 3 // 4
        size = smaller if length <= smaller else size
    return min(size, n_ctx)


def row_bucket(rows: int, place: Partition | None = None) -> int:
    """The number of rows that ``rows`` are filled up to: the next power of two, and what ``place`` divides."""
    count = 1 << max(rows - 1, 0).bit_length()
    if place is None:
        return count
    over = place.size(place.rules.batch)
    return -(-max(count, over) // over) * over


def least_rows(platform: str | None = None) -> int:
    """Rows that a batch of texts is written in at least, on jax's own devices or those of ``platform``. A GPU gets two:
    products of one row alone XLA takes apart into multiplications and sums, which took half as long again for a token
    of gpt2 on an H200 (benchmarks/log_gpu.md)."""
    return 2 if (platform or jax.default_backend()) == "gpu" else 1


def by_length(texts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Numbers of ``texts`` in batches of like length, so that little is padding."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


def padded(texts: Sequence[Sequence[int]], n_ctx: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] of ``texts`` and their lengths [B], int32; filled up on the right, and with rows of length 1."""
    rows = row_bucket(len(texts))
    tokens_BT = np.zeros((rows, bucket(max(map(len, texts)), n_ctx, rows)), np.int32)
    length_B = np.ones(rows, np.int32)
    for row, tokens in enumerate(texts):
        tokens_BT[row, : len(tokens)] = tokens
        length_B[row] = len(tokens)
    return tokens_BT, length_B
