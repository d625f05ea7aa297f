"""Whether a folder of shards is as it was written: sizes, hashes, counts, and every token in the vocabulary."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.documents import DocumentWindows
from gpt2jax.data.join import file_hash
from gpt2jax.data.meta import FILE_NAME, Meta, SplitMeta, read_meta
from gpt2jax.data.shards import Shard, Split, check_vocabulary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.progress import Report, bar

_BLOCK = 2**22


def verify(folder: Path, progress: Report | bool = True) -> list[str]:
    """Check everything that ``folder``'s meta.json says of it.

    Returns:
        What was checked, a line each.

    Raises:
        GPT2JaxError: something is not as it says: a file's size, hash or header, the number of tokens, documents or
            bytes, or a token outside the vocabulary.
    """
    meta = read_meta(folder)
    if meta is None:
        raise GPT2JaxError(f"{folder}: holds no {FILE_NAME}: there is nothing to check it by")
    lines = [_check_index(folder, meta)]
    for split in get_args(Split):
        recorded = meta.of(split)
        if recorded is not None:
            lines.append(_check_split(folder, meta, split, recorded, progress))
    return lines


def _check_index(folder: Path, meta: Meta) -> str:
    if meta.index is None:
        return f"{folder}: made before there were hashes: none is checked"
    for name, file in meta.index.items():
        path = folder / name
        if not path.is_file():
            raise GPT2JaxError(f"{path}: is missing: should be there by {FILE_NAME}")
        size = path.stat().st_size
        if size != file.bytes:
            raise GPT2JaxError(f"{path}: {size:,} bytes: should be {file.bytes:,} by {FILE_NAME}")
        found = file_hash(path)
        if found != file.sha256:
            raise GPT2JaxError(f"{path}: sha256 {found}: should be {file.sha256} by {FILE_NAME}: damaged")
    return f"{folder}: {len(meta.index):,} files are as they were written, by their sha256"


def _check_split(folder: Path, meta: Meta, split: Split, recorded: SplitMeta, progress: Report | bool) -> str:
    encoding = meta.encoding()
    shards = meta.open_shards(folder, split)
    lengths_V, mark = token_lengths(encoding), tokenizers.end_of_text(encoding) if meta.end_of_text else None
    size = marks = 0
    with bar(f"Checking {split}", progress) as report:
        done = 0
        for shard, start, tokens_T in blocks(shards):
            check_vocabulary(tokens_T, meta.n_vocab, shard.path, start)
            size += int(lengths_V[tokens_T].sum())
            marks += int(np.count_nonzero(tokens_T == mark)) if mark is not None else 0
            done += tokens_T.size
            report(done, recorded.tokens)
    if meta.rows == "documents":
        windows = DocumentWindows(shards[0], 1, meta.n_vocab)
        if windows.documents != recorded.documents:
            raise _wrong(folder, split, "documents", windows.documents, recorded.documents)
        return f"{split}: {recorded.tokens:,} tokens of {recorded.documents:,} documents with prompts"
    if size != recorded.bytes:
        raise _wrong(folder, split, "bytes of text", size, recorded.bytes)
    # Of a document that is cut between the splits, one of them has the mark.
    if mark is not None and abs(marks - recorded.documents) > (meta.split == "first"):
        raise _wrong(folder, split, "documents", marks, recorded.documents)
    return f"{split}: {recorded.tokens:,} tokens of {recorded.documents:,} documents, {recorded.bytes:,} bytes of text"


def blocks(shards: list[Shard]) -> Iterator[tuple[Shard, int, np.ndarray]]:
    """The tokens of shards in blocks that fit in memory, each with its shard and its place in it."""
    for shard in shards:
        tokens = shard.memmap()
        for start in range(0, shard.tokens, _BLOCK):
            yield shard, start, np.asarray(tokens[start : start + _BLOCK])


def token_lengths(encoding: tiktoken.Encoding) -> np.ndarray:
    """Bytes that each token stands for [V]: of ``<|endoftext|>`` none."""
    lengths_V = np.zeros(encoding.n_vocab, np.int64)
    for value in encoding.token_byte_values():
        lengths_V[encoding.encode_single_token(value)] = len(value)
    return lengths_V


def _wrong(folder: Path, split: str, what: str, found: int, wanted: int) -> GPT2JaxError:
    return GPT2JaxError(f"{folder}: {split}: {found:,} {what}: should be {wanted:,} by {FILE_NAME}")
