"""Documents apart, and what of them teaches: beside a shard of tokens, a mask and the documents' ends.

``train.mask`` has a byte for each token of ``train.bin``: 1 where the token, as a target, teaches. ``train.ends`` has
a little-endian 64-bit number for each document: the place in ``train.bin`` just after it.
"""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from gpt2jax.data.shards import Shard, check_vocabulary
from gpt2jax.errors import GPT2JaxError

END = np.dtype("<u8")


def mask_file(shard: Path) -> Path:
    return shard.with_suffix(".mask")


def ends_file(shard: Path) -> Path:
    return shard.with_suffix(".ends")


class MaskWriter:
    """Writes mask and ends beside a shard, document by document."""

    def __init__(self, shard: Path) -> None:
        self._end = 0
        with contextlib.ExitStack() as stack:
            self._mask = stack.enter_context(mask_file(shard).open("xb"))
            self._ends = stack.enter_context(ends_file(shard).open("xb"))
            self._stack = stack.pop_all()

    def write(self, taught_T: np.ndarray) -> None:
        """A document of which these tokens teach (bool)."""
        self._mask.write(taught_T.astype(np.uint8).tobytes())
        self._end += taught_T.size
        self._ends.write(np.array([self._end], END).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class DocumentWindows:
    """Windows of T+1 tokens of one document each, at stride T, the last one filled up. A source for Grain.

    What fills a window up does not teach; a window in which nothing teaches is left out. As in
    :class:`gpt2jax.data.pipeline.TokenWindows`, each token but a document's first is a target once.
    """

    def __init__(self, shard: Shard, n_ctx: int, n_vocab: int) -> None:
        """Read the documents' ends and which of the windows teach; the tokens stay on disk.

        Raises:
            GPT2JaxError: mask or ends are missing or not those of ``shard``, or nothing in it teaches.
        """
        self.shards, self.n_ctx, self.n_vocab = (shard,), n_ctx, n_vocab
        mask = _read(mask_file(shard.path), np.dtype(np.uint8))
        ends = _read(ends_file(shard.path), END).astype(np.int64)
        if mask.size != shard.tokens:
            raise GPT2JaxError(f"{mask_file(shard.path)}: {mask.size:,} bytes: should be {shard.tokens:,}, one a token")
        if mask.size and mask.max() > 1:
            raise GPT2JaxError(f"{mask_file(shard.path)}: holds a {mask.max()}: should hold 0 and 1 alone")
        starts = np.concatenate([[0], ends[:-1]])
        self._documents = starts, ends
        if not ends.size or ends[-1] != shard.tokens or (ends <= starts).any():
            raise GPT2JaxError(
                f"{ends_file(shard.path)}: damaged: should rise to {shard.tokens:,}, the last token's end"
            )
        counts = np.maximum(-(-(ends - starts - 1) // n_ctx), 1)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = np.repeat(starts, counts) + within * n_ctx
        self._stops = np.minimum(self._starts + n_ctx + 1, np.repeat(ends, counts))
        before = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])  # Tokens that teach, before each.
        teaches = before[self._stops] > before[self._starts + 1]
        self._starts, self._stops = self._starts[teaches], self._stops[teaches]
        targets = max(len(self), 1) * n_ctx
        self.filled = float(np.sum(self._stops - self._starts - 1) / targets)
        """Share of all windows' targets that are tokens of a document: the rest is padding."""
        self.taught = float(np.sum(before[self._stops] - before[self._starts + 1]) / targets)
        """Share of them that teach."""
        self._mask = mask
        self._tokens: np.ndarray | None = None
        if not len(self):
            raise GPT2JaxError(f"{mask_file(shard.path)}: no token teaches: there is nothing to learn from")

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def tokens(self) -> int:
        return self.shards[0].tokens

    @property
    def documents(self) -> int:
        return len(self._documents[0])

    def __getitem__(self, index: int) -> np.ndarray:
        """Window ``index`` [2, T+1], int32: tokens, and 1 where one teaches as a target.

        Raises:
            GPT2JaxError: it holds a token outside the vocabulary.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start, stop = int(self._starts[index]), int(self._stops[index])
        if self._tokens is None:
            self._tokens = self.shards[0].memmap()
        window_2T1 = np.zeros((2, self.n_ctx + 1), np.int32)
        window_2T1[0, : stop - start] = self._tokens[start:stop]
        window_2T1[1, 1 : stop - start] = self._mask[start + 1 : stop]
        check_vocabulary(window_2T1[0], self.n_vocab, self.shards[0].path, start)
        return window_2T1

    def prompts(self, count: int) -> list[np.ndarray]:
        """What stands before the first token that teaches, of ``count`` documents at most: tokens [P], int32.

        The documents are always the same ones, evenly spread.

        Raises:
            GPT2JaxError: one of them holds a token outside the vocabulary.
        """
        starts, ends = self._documents
        count = min(count, len(starts))
        found, tokens = [], self.shards[0].memmap()
        for number in (place * len(starts) // count for place in range(count)):
            length = int(np.argmax(self._mask[starts[number] : ends[number]]))
            prompt_P = tokens[starts[number] : starts[number] + length].astype(np.int32)
            check_vocabulary(prompt_P, self.n_vocab, self.shards[0].path, int(starts[number]))
            found.append(prompt_P)
        return found

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_tokens": None}  # A pickled memmap would be a copy of the whole file.


def _read(path: Path, dtype: np.dtype[np.generic]) -> np.ndarray:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) % dtype.itemsize:
        raise GPT2JaxError(f"{path}: {len(raw):,} bytes: cut short: should be a multiple of {dtype.itemsize}")
    return np.frombuffer(raw, dtype)
