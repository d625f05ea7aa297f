"""Units that are done to shards: in the corpus's order, so that it is all one who made them, and when."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken

from gpt2jax.data import duplicates, splits
from gpt2jax.data.clean import Cleaning
from gpt2jax.data.documents import MaskWriter, ends_file, mask_file
from gpt2jax.data.meta import FileMeta, SplitMeta
from gpt2jax.data.parts import TRAIN, VALIDATION, Parts, Record
from gpt2jax.data.shards import Format, ShardWriter, Split, TokenBits
from gpt2jax.errors import GPT2JaxError

_SPLITS: dict[int, Split] = {TRAIN: "train", VALIDATION: "validation"}
_DROPPED = 0


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the shards are to be, once all documents are encoded."""

    name: str
    format: Format
    shard_tokens: int
    token_bits: TokenBits
    split: splits.SplitUsed
    holds_out: bool
    fraction: float
    seed: int
    validation_tokens: int


class Joined(NamedTuple):
    """What was written."""

    splits: dict[Split, SplitMeta]
    files: dict[str, FileMeta]
    dropped: dict[str, int]
    """Documents that were left out, by reason."""


def join(
    parts: Parts, records: Sequence[Record], shape: Shape, cleaning: Cleaning, encoding: tiktoken.Encoding, out: Path
) -> Joined:
    """Write the shards into ``out``.

    Raises:
        GPT2JaxError: a unit is damaged on disk, or a split has no documents.
    """
    kept: tuple[Split, ...] = ("train", "validation") if shape.holds_out else ("train",)
    dropped: dict[str, int] = {}
    parts.check(records)
    for record in records:
        for reason, count in record.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    with contextlib.ExitStack() as stack:
        outputs = {split: stack.enter_context(_Output(out, split, shape, encoding)) for split in kept}
        rows = _decided(parts, records, shape, cleaning, encoding, dropped)
        for record, (rows_N, split_N) in zip(records, rows, strict=True):
            tokens_T = parts.tokens(record)
            ends = rows_N["end"].astype(np.int64)
            edges = np.flatnonzero(np.diff(split_N)) + 1
            for first, last in zip([0, *edges], [*edges, len(rows_N)], strict=True):
                if first == last:
                    continue
                start = int(ends[first - 1]) if first else 0
                name = _SPLITS.get(int(split_N[first]))
                if name is None:
                    continue
                run = tokens_T[start : ends[last - 1]]
                if shape.split == "first":
                    _cut(outputs, run, rows_N[first:last], start, shape.validation_tokens, encoding)
                else:
                    outputs[name].write(run, rows_N[first:last], start, record.prompts)
    for split, output in outputs.items():
        if not output.documents:
            total = sum(output.documents for output in outputs.values())
            raise GPT2JaxError(
                f"{split}: no documents among the corpus's {total}: should be at least one; use --split tail,"
                " or another validation fraction"
            )
    finished = {split: output.finish() for split, output in outputs.items()}
    index = {name: file for _, files in finished.values() for name, file in files.items()}
    return Joined({split: meta for split, (meta, _) in finished.items()}, index, dropped)


class _Output:
    """The shards of one split, and what lies beside them."""

    def __init__(self, folder: Path, split: Split, shape: Shape, encoding: tiktoken.Encoding) -> None:
        self._writer = ShardWriter(
            folder, shape.name, split, shape.format, encoding.n_vocab, shape.shard_tokens, shape.token_bits
        )
        self._folder, self._mask = folder, contextlib.ExitStack()
        self._masks: MaskWriter | None = None
        self.documents = self.bytes = 0

    @property
    def tokens(self) -> int:
        return self._writer.tokens

    def write(self, tokens_T: np.ndarray, rows_N: np.ndarray, start: int, prompts: bool) -> None:
        """Documents in a row: their tokens, and their rows, of which ``start`` is the first one's place."""
        for at in range(0, len(tokens_T), 2**22):
            self._writer.write(np.asarray(tokens_T[at : at + 2**22]))
        self.count(rows_N)
        if prompts:
            if self._masks is None:
                self._masks = self._mask.enter_context(MaskWriter(self._folder / self._writer.files[0]))
            for row in rows_N:
                self._masks.write(np.arange(int(row["end"]) - start) >= int(row["prompt"]))
                start = int(row["end"])

    def count(self, rows_N: np.ndarray, text_bytes: int | None = None) -> None:
        self.documents += int(np.count_nonzero(rows_N["continues"] == 0))
        self.bytes += int(rows_N["bytes"].sum()) if text_bytes is None else text_bytes

    def finish(self) -> tuple[SplitMeta, dict[str, FileMeta]]:
        """Complete the files: what is in the split, and in each of them."""
        self._mask.close()
        self._writer.close()
        names = self._writer.files
        index = {name: self._file(name, count) for name, count in zip(names, self._writer.counts, strict=True)}
        if self._masks is not None:
            shard = self._folder / names[0]
            index |= {path.name: self._file(path.name) for path in (mask_file(shard), ends_file(shard))}
        return SplitMeta(tuple(names), self.tokens, self.documents, self.bytes), index

    def _file(self, name: str, tokens: int | None = None) -> FileMeta:
        path = self._folder / name
        return FileMeta(path.stat().st_size, file_hash(path), tokens)

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._mask.close()
        self._writer.close()


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cut(
    outputs: dict[Split, _Output],
    tokens_T: np.ndarray,
    rows_N: np.ndarray,
    start: int,
    wanted: int,
    encoding: tiktoken.Encoding,
) -> None:
    """The first ``wanted`` tokens of the corpus to validation, the others to training, wherever that cuts."""
    train, validation = outputs["train"], outputs["validation"]
    room = wanted - validation.tokens
    ends = rows_N["end"].astype(np.int64) - start
    whole = int(np.searchsorted(ends, room, "right"))  # Documents that end in what is to be held out.
    if whole == len(ends) or room <= 0:
        validation.write(tokens_T, rows_N, start, False) if room > 0 else _go_on(train, tokens_T, rows_N, start)
        return
    begin = int(ends[whole - 1]) if whole else 0
    validation.write(tokens_T[:begin], rows_N[:whole], start, False)
    head = tokens_T[begin:room]
    if len(head):
        special = set(encoding._special_tokens.values())
        size = len(encoding.decode_bytes([token for token in head.tolist() if token not in special]))
        validation.write(head, rows_N[:0], 0, False)
        validation.count(rows_N[whole : whole + 1], size)
        train.count(rows_N[:0], -size)
    _go_on(train, tokens_T[room:], rows_N[whole:], start)


def _go_on(train: _Output, tokens_T: np.ndarray, rows_N: np.ndarray, start: int) -> None:
    """To training. The document that was cut is one in each split, also where its beginning is in a unit before."""
    if not train.tokens:
        train.documents += int(rows_N["continues"][0])
    train.write(tokens_T, rows_N, start, False)


def _decided(
    parts: Parts,
    records: Sequence[Record],
    shape: Shape,
    cleaning: Cleaning,
    encoding: tiktoken.Encoding,
    dropped: dict[str, int],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each unit its rows, and the split of each: 0 where it is left out."""
    repeated = duplicates.repeated(parts, records, cleaning, encoding, dropped)
    seen = number = 0
    last = TRAIN
    for at, record in enumerate(records):
        rows_N = parts.rows(record)
        first_N = rows_N["continues"] == 0
        split_N = np.full(len(rows_N), TRAIN, np.uint8)
        stays_N = np.ones(len(rows_N), bool) if repeated is None else ~repeated[number : number + len(rows_N)]
        number += len(rows_N)
        if shape.split in ("tail", "given"):
            split_N = np.where(rows_N["split"] == VALIDATION, VALIDATION, TRAIN).astype(np.uint8)
        elif shape.split == "hash" and shape.fraction:
            digests = duplicates.digests(parts, records, at, rows_N, encoding)
            held_N = splits.by_hash(digests, shape.fraction, shape.seed)
            split_N[held_N] = VALIDATION
        elif shape.split == "documents" and shape.fraction:
            counted_N = stays_N & first_N
            held = splits.one_of_every_block(seen, int(counted_N.sum()), shape.fraction, shape.seed)
            seen += int(counted_N.sum())
            split_N[np.flatnonzero(counted_N)[held]] = VALIDATION
        split_N[~stays_N] = _DROPPED
        if len(rows_N) and not first_N[0]:
            split_N[0] = last  # It goes on with the document before it, wherever that went.
        last = int(split_N[-1]) if len(rows_N) else last
        yield rows_N, split_N
