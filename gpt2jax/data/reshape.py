"""Shards from one format to another: nanoGPT's, llm.c's, ArrayRecord, whoever wrote them. Tokens are not made anew.

In nanoGPT's format ``<|endoftext|>`` stands after each document and in llm.c's before it: the one at an end of a split
goes to the other end, and all between stay. So what comes out is what preparing the text in that format writes; but not
where ``--split first`` cut a document: that cut stays where it is in the text.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.join import file_hash
from gpt2jax.data.meta import FILE_NAME, FileMeta, Meta, SplitMeta, read_meta
from gpt2jax.data.pipeline import foreign_shards
from gpt2jax.data.shards import SHARD_TOKENS, Format, Shard, ShardWriter, Split
from gpt2jax.data.verify import blocks
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import new_folder, refuse_if_no_space, refuse_occupied
from gpt2jax.progress import Report, bar


def reshape(
    folder: Path,
    out: Path,
    format: Format,
    *,
    tokenizer: str = "auto",
    shard_tokens: int = SHARD_TOKENS,
    progress: Report | bool = True,
) -> dict[Split, int]:
    """Write the shards of ``folder`` into ``out``, in another format.

    Args:
        tokenizer: of shards without meta.json, which do not say it.
        shard_tokens: most tokens in a file, but for nanoGPT's format.

    Returns:
        The tokens of each split.

    Raises:
        GPT2JaxError: no such shards, damaged ones, an unknown vocabulary, documents with prompts, or ``out`` is taken.
    """
    refuse_occupied(out)
    meta = read_meta(folder) if folder.is_dir() else None
    if not folder.is_dir():
        raise GPT2JaxError(f"{folder}: no such folder")
    if meta is not None and meta.rows == "documents":
        raise GPT2JaxError(f"{folder}: documents with prompts: these are kept in nanoGPT's format alone")
    if meta is None and tokenizer == "auto":
        raise GPT2JaxError(f"{folder}: has no {FILE_NAME}: name its vocabulary with --tokenizer")
    encoding = meta.encoding() if meta is not None else tokenizers.from_spec({"name": tokenizer})
    bits = meta.token_bits if meta is not None else 16
    shards = {split: found for split in get_args(Split) if (found := _shards(folder, meta, split))}
    if not shards:
        raise GPT2JaxError(f"{folder}: holds no shards")
    total = sum(shard.tokens for found in shards.values() for shard in found)
    refuse_if_no_space(out, int(total * bits // 8 * 1.01) + 4096)
    with bar("Writing", progress) as report, new_folder(out) as temporary:
        done, index, counts = 0, dict[str, FileMeta](), dict[Split, int]()
        names: dict[Split, tuple[str, ...]] = {}
        for split, found in shards.items():
            with ShardWriter(temporary, out.name, split, format, encoding.n_vocab, shard_tokens, bits) as writer:
                for tokens_T in _turned(found, format, encoding):
                    writer.write(tokens_T)
                    done += tokens_T.size
                    report(done, total)
            counts[split], names[split] = writer.tokens, tuple(writer.files)
            for name, count in zip(writer.files, writer.counts, strict=True):
                path = temporary / name
                index[name] = FileMeta(path.stat().st_size, file_hash(path), count)
        if meta is not None:
            made = dataclasses.replace(
                meta, format=format, index=index, shard_tokens=shard_tokens, source_sha256=f"from {meta.source_sha256}",
                train=_renamed(meta.train, names["train"]),
                validation=meta.validation and _renamed(meta.validation, names["validation"]),
            )  # fmt: skip
            (temporary / FILE_NAME).write_text(made.to_json(), encoding="utf-8", newline="")
    return counts


def _shards(folder: Path, meta: Meta | None, split: Split) -> list[Shard]:
    """Those of a split; none where it has none."""
    if meta is not None:
        return meta.open_shards(folder, split) if meta.of(split) is not None else []
    with contextlib.suppress(FileNotFoundError):
        return foreign_shards(folder, split, missing_ok=True)
    return []


def _turned(shards: list[Shard], format: Format, encoding: tiktoken.Encoding) -> Iterator[np.ndarray]:
    """The tokens of a split, with ``<|endoftext|>`` at the end that the format wants."""
    token, first = tokenizers.end_of_text(encoding), format == "llmc"
    mark = np.array([0 if token is None else token], np.uint32)
    begin = int(np.asarray(shards[0].memmap()[0:1])[0])
    last_shard = shards[-1]
    end = int(np.asarray(last_shard.memmap()[last_shard.tokens - 1 : last_shard.tokens])[0])
    # Only where it stands at the one end and not at the other: else it was left out, or cut off.
    at_begin = token is not None and begin == token and end != token
    at_end = token is not None and end == token and begin != token
    if first and at_end:
        yield mark
    for shard, start, tokens_T in blocks(shards):
        last = shard is last_shard and start + tokens_T.size == shard.tokens
        skipped = not first and at_begin and shard is shards[0] and start == 0
        yield tokens_T[int(skipped) : tokens_T.size - int(first and at_end and last)]
    if not first and at_begin:
        yield mark


def _renamed(split: SplitMeta, files: tuple[str, ...]) -> SplitMeta:
    return dataclasses.replace(split, files=files)
