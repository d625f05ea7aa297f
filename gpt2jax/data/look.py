"""What is in a folder of shards: lengths of documents, frequencies of tokens, duplicates, and documents as text."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.documents import END, ends_file
from gpt2jax.data.meta import FILE_NAME, read_meta
from gpt2jax.data.pipeline import foreign_shards
from gpt2jax.data.shards import Shard, Split, check_vocabulary
from gpt2jax.data.verify import blocks, token_lengths
from gpt2jax.errors import GPT2JaxError
from gpt2jax.progress import Report, bar


@dataclasses.dataclass(frozen=True)
class Look:
    """A split, counted. It takes 32 bytes of memory a document."""

    name: Split
    shards: tuple[Shard, ...]
    encoding: tiktoken.Encoding
    mark: int | None
    """``<|endoftext|>``; None where documents are told apart otherwise, or not at all."""
    ends_N: np.ndarray
    """Where each document ends, in tokens of the whole split, the ``<|endoftext|>`` that belongs to it included."""
    lengths_N: np.ndarray
    """Tokens of each, ``<|endoftext|>`` not counted."""
    bytes_N: np.ndarray
    """UTF-8 bytes of each."""
    hashes_N: np.ndarray
    """A number for the tokens of each, of 64 bits."""
    counts_V: np.ndarray
    """How often each token stands there."""

    @property
    def tokens(self) -> int:
        return int(self.counts_V.sum())

    @property
    def repeated(self) -> int:
        """Documents that are one before them."""
        return len(self.hashes_N) - len(np.unique(self.hashes_N))

    @property
    def bytes_per_token(self) -> float:
        """Of text alone."""
        return float(self.bytes_N.sum() / max(self.lengths_N.sum(), 1))

    def document(self, number: int, characters: int) -> str:
        """The text of a document, so many characters of it.

        Raises:
            GPT2JaxError: there is no such document.
        """
        if not 0 <= number < len(self.ends_N):
            raise GPT2JaxError(f"document: {number}: should be from 0 to {len(self.ends_N) - 1:,}, of {self.name}")
        start = int(self.ends_N[number - 1]) if number else 0
        # No character takes more than four tokens.
        tokens_T = self._tokens(start, min(int(self.ends_N[number]), start + 4 * characters + 4))
        text = self.encoding.decode([token for token in tokens_T.tolist() if token != self.mark])
        return text[:characters]

    def _tokens(self, start: int, stop: int) -> np.ndarray:
        found, offset = [np.zeros(0, np.int64)], 0
        for shard in self.shards:
            first, last = max(start - offset, 0), min(stop - offset, shard.tokens)
            if first < last:
                found.append(np.asarray(shard.memmap()[first:last]).astype(np.int64))
            offset += shard.tokens
        return np.concatenate(found)


def look(folder: Path, tokenizer_name: str = "auto", progress: Report | bool = True) -> list[Look]:
    """Count every split of ``folder``.

    Args:
        tokenizer_name: of shards without meta.json, which do not say it.

    Raises:
        GPT2JaxError: no shards, damaged ones, or an unknown vocabulary.
    """
    if not folder.is_dir():
        raise GPT2JaxError(f"{folder}: no such folder: should be one of token shards")
    meta = read_meta(folder)
    if meta is None and tokenizer_name == "auto":
        raise GPT2JaxError(f"{folder}: has no {FILE_NAME}: name its vocabulary with --tokenizer")
    encoding = meta.encoding() if meta is not None else tokenizers.from_spec({"name": tokenizer_name})
    looks = []
    for split in get_args(Split):
        if meta is None:
            shards = foreign_shards(folder, split, missing_ok=True)
        else:
            shards = meta.open_shards(folder, split) if meta.of(split) is not None else []
        if shards:
            ends = None
            if meta is not None and meta.rows == "documents":
                ends = np.fromfile(ends_file(shards[0].path), END).astype(np.int64)
            with bar(f"Reading {split}", progress) as report:
                looks.append(_look(split, shards, encoding, ends, report))
    if not looks:
        raise GPT2JaxError(f"{folder}: holds no shards")
    return looks


def _look(
    split: Split, shards: Sequence[Shard], encoding: tiktoken.Encoding, ends: np.ndarray | None, report: Report
) -> Look:
    mark, lengths_V = tokenizers.end_of_text(encoding), token_lengths(encoding)
    counts_V = np.zeros(encoding.n_vocab, np.int64)
    first = int(np.asarray(shards[0].memmap()[0:1])[0]) == mark and ends is None
    found = _Ends(mark, first, ends)
    total, done = sum(shard.tokens for shard in shards), 0
    for shard, start, tokens_T in blocks(list(shards)):
        check_vocabulary(tokens_T, encoding.n_vocab, shard.path, start)
        counts_V += np.bincount(tokens_T, minlength=encoding.n_vocab)
        found.take(tokens_T, lengths_V)
        done += tokens_T.size
        report(done, total)
    return Look(split, tuple(shards), encoding, mark, *found.all(), counts_V)


class _Ends:
    """Documents in a stream of tokens that comes in blocks."""

    def __init__(self, mark: int | None, first: bool, ends: np.ndarray | None) -> None:
        """``first``: the mark stands before a document; ``ends``: where they end, if that is known."""
        self._mark, self._first, self._known = mark, first, ends
        self._place = self._bytes = self._marks = 0
        self._hash = hashlib.blake2b(digest_size=8)
        self._ends, self._hashes = list[np.ndarray](), list[bytes]()
        self._bytes_at, self._marks_at = list[np.ndarray](), list[np.ndarray]()

    def take(self, tokens_T: np.ndarray, lengths_V: np.ndarray) -> None:
        size = tokens_T.size
        if self._known is not None:
            ends = self._known[(self._known > self._place) & (self._known <= self._place + size)] - self._place
        else:
            ends = np.flatnonzero(tokens_T == self._mark) if self._mark is not None else np.zeros(0, np.int64)
            ends = ends if self._first else ends + 1
            ends = ends[ends + self._place > 0]  # A mark at the very beginning ends nothing.
        marks_T = np.concatenate([[0], np.cumsum(tokens_T == (-1 if self._mark is None else self._mark))])
        bytes_T = np.concatenate([[0], np.cumsum(lengths_V[tokens_T])])
        start = 0
        for end in ends.tolist():
            self._add(tokens_T[start:end])
            self._finish()
            start = end
        self._add(tokens_T[start:])
        self._ends.append(ends + self._place)
        self._marks_at.append(self._marks + marks_T[ends])
        self._bytes_at.append(self._bytes + bytes_T[ends])
        self._place, self._marks, self._bytes = self._place + size, self._marks + marks_T[-1], self._bytes + bytes_T[-1]

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ends, lengths, bytes and hashes of all documents."""
        ends, marks, sizes = (np.concatenate(some) for some in (self._ends, self._marks_at, self._bytes_at))
        if self._place > (ends[-1] if ends.size else 0):  # The last one may have no mark.
            self._finish()
            ends, marks, sizes = (
                np.append(some, last)
                for some, last in ((ends, self._place), (marks, self._marks), (sizes, self._bytes))
            )
        lengths = np.diff(ends, prepend=0) - np.diff(marks, prepend=0)
        return ends.astype(np.int64), lengths, np.diff(sizes, prepend=0), np.frombuffer(b"".join(self._hashes), "<u8")

    def _add(self, tokens_T: np.ndarray) -> None:
        self._hash.update(tokens_T[tokens_T != self._mark].astype("<u4").tobytes())

    def _finish(self) -> None:
        self._hashes.append(self._hash.digest())
        self._hash = hashlib.blake2b(digest_size=8)
