"""Windows of tokens by their number, cut from shards, and from several corpora at once."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2jax.data.shards import Shard, check_vocabulary
from gpt2jax.errors import GPT2JaxError


class TokenWindows:
    """Windows of T+1 tokens at stride T: each token but a shard's first is a target once. A source for Grain.

    A window lies inside one shard; what remains of a shard below T+1 tokens is left out.
    """

    filled = taught = 1.0
    """Shares of the targets that are tokens of the text, and that teach: as in
    :class:`gpt2jax.data.documents.DocumentWindows`."""

    def __init__(self, shards: Sequence[Shard], n_ctx: int, n_vocab: int) -> None:
        """Only counts; files are opened when first read.

        Raises:
            GPT2JaxError: no shard holds a full window.
        """
        self.shards = tuple(shards)
        self.n_ctx = n_ctx
        self.n_vocab = n_vocab
        # Windows up to the end of each shard.
        self._ends = list(itertools.accumulate((shard.tokens - 1) // n_ctx for shard in self.shards))
        self._memmaps: dict[int, np.ndarray] = {}
        if not len(self):
            longest = max(self.shards, key=lambda shard: shard.tokens)
            raise GPT2JaxError(
                f"{longest.path}: {longest.tokens:,} tokens: should be at least {n_ctx + 1:,}, one window of"
                f" model.n_ctx ({n_ctx:,}) + 1"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    def __getitem__(self, index: int) -> np.ndarray:
        """Window ``index`` [T+1], int32.

        Raises:
            GPT2JaxError: it holds a token outside the vocabulary, which the model would read as another one.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        shard = self.shards[number]
        start = (index - (self._ends[number - 1] if number else 0)) * self.n_ctx
        if number not in self._memmaps:
            self._memmaps[number] = shard.memmap()
        window_T1 = self._memmaps[number][start : start + self.n_ctx + 1].astype(np.int32)
        check_vocabulary(window_T1, self.n_vocab, shard.path, start)
        return window_T1

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memmaps": {}}  # A pickled memmap would be a copy of the whole file.


class MixedWindows:
    """Windows of several corpora. In training each gives a share of them (:func:`gpt2jax.data.pipeline.batches`); by
    number they are those of the first, then of the second, and so on."""

    filled = taught = 1.0

    def __init__(self, parts: Sequence[TokenWindows], weights: Sequence[float]) -> None:
        """The weights need not sum to 1."""
        self.parts, self.weights = tuple(parts), tuple(weights)
        self.n_ctx, self.n_vocab = parts[0].n_ctx, parts[0].n_vocab
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def shards(self) -> tuple[Shard, ...]:
        return tuple(shard for part in self.parts for shard in part.shards)

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    def __getitem__(self, index: int) -> np.ndarray:
        """Window ``index`` [T+1], int32."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number][index - (self._ends[number - 1] if number else 0)]
