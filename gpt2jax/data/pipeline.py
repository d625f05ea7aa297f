"""Token shards to batches. A batch is a function of (seed, step), the order of its rows included."""

import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tiktoken

from gpt2jax import tokenizer
from gpt2jax.data.documents import DocumentWindows
from gpt2jax.data.meta import FILE_NAME, read_meta
from gpt2jax.data.shards import Format, Shard, Split, open_shard
from gpt2jax.data.windows import MixedWindows, TokenWindows
from gpt2jax.errors import GPT2JaxError

__all__ = ["TokenWindows", "Windows", "batches", "foreign_shards", "holds_validation", "local_rows", "open_split"]
__all__ += ["training_batches", "validation_windows"]

Windows = TokenWindows | DocumentWindows | MixedWindows


def holds_validation(folder: str | Path) -> bool:
    """Whether a validation split is in ``folder``; where nothing says that there is none, it is missed when opened."""
    meta = read_meta(Path(folder)) if Path(folder).is_dir() else None
    return meta is None or meta.validation is not None


def open_split(
    folder: str | Path, split: Split, n_ctx: int, n_vocab: int, tokenizer_name: str = "auto"
) -> tuple[Windows, tiktoken.Encoding, float | None]:
    """The windows of a split, its vocabulary, and its UTF-8 bytes per token.

    ``folder`` holds what :func:`gpt2jax.data.prepare.prepare` wrote, or nanoGPT's or llm.c's files. Those do not say
    which vocabulary they are in, so ``tokenizer_name`` must, and their bytes per token are None, as they are where a
    part of the tokens alone teaches.

    Raises:
        GPT2JaxError: no such shards, damaged ones, or a vocabulary that is not the model's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GPT2JaxError(f"data.path: {folder}: no such file or folder: should be text, or what gpt2jax prepare made")
    meta = read_meta(folder)
    if meta is None:
        shards = foreign_shards(folder, split)
        if tokenizer_name == "auto":
            raise GPT2JaxError(
                f"data.tokenizer: 'auto': should be named, {folder} has no {FILE_NAME}: add --data.tokenizer gpt2"
            )
        encoding = tokenizer.from_spec({"name": tokenizer_name})
        bytes_per_token = None
    else:
        shards = meta.open_shards(folder, split)
        encoding = meta.encoding()
        if tokenizer_name not in ("auto", encoding.name):
            raise GPT2JaxError(
                f"data.tokenizer: {tokenizer_name!r}: should be auto or {encoding.name}, the vocabulary of {folder}"
            )
        recorded = meta.of(split)
        assert recorded is not None  # Opening has refused it.
        bytes_per_token = recorded.bytes / recorded.tokens if meta.rows == "stream" else None
    if n_vocab != encoding.n_vocab:
        raise GPT2JaxError(
            f"model.n_vocab: {n_vocab}: should be {encoding.n_vocab}, the vocabulary of {folder} ({encoding.name})"
        )
    if meta is not None and meta.rows == "documents":
        [shard] = shards
        return DocumentWindows(shard, n_ctx, n_vocab), encoding, bytes_per_token
    return TokenWindows(shards, n_ctx, n_vocab), encoding, bytes_per_token


def foreign_shards(folder: Path, split: Split, missing_ok: bool = False) -> list[Shard]:
    """Shards that nanoGPT or llm.c wrote, told apart by their names; none only where that is ``missing_ok``.

    Raises:
        GPT2JaxError: there are none, or some of both.
    """
    short = "train" if split == "train" else "val"
    # llm.c numbers its shards, except for the single ones of tinyshakespeare and tinystories.
    patterns: dict[Format, str] = {"nanogpt": rf"{short}\.bin", "llmc": rf".+_{short}(_\d+)?\.bin"}
    names = sorted(file.name for file in folder.iterdir())
    found = {format: [name for name in names if re.fullmatch(patterns[format], name)] for format in patterns}
    if all(found.values()):
        raise GPT2JaxError(f"{folder}: {', '.join(found['nanogpt'])} and {found['llmc'][0]}: should be of one format")
    if not any(found.values()) and not missing_ok:
        raise GPT2JaxError(f"{folder}: no {split} shards: should hold {FILE_NAME}, {short}.bin or *_{short}_*.bin")
    return [open_shard(folder / name, format) for format, names in found.items() for name in names]


def training_batches(
    windows: Windows,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    batch_sharding: jax.sharding.NamedSharding,
    read_threads: int,
    read_buffer: int,
) -> Generator[np.ndarray, None, None]:
    """This process's rows [b, T+1] (int32) of the batches from ``start_step`` on, forever; close it to end its threads.

    Of :class:`DocumentWindows` they are [b, 2, T+1].

    Args:
        batch_size: B, over all processes.
        batch_sharding: where the global batch [B, T+1] will live.
        read_threads: threads that read ahead; 0 reads in the caller's.
        read_buffer: windows to read ahead, in whole batches, at least one per thread.

    Raises:
        GPT2JaxError: the devices of this process do not hold one contiguous, equal share of the rows.
    """
    indices = batch_sharding.addressable_devices_indices_map((batch_size, windows.n_ctx + 1)).values()
    ranges = [index[0].indices(batch_size)[:2] for index in indices if index is not None]
    shard_index, shard_count = local_rows(ranges, batch_size)
    return batches(
        windows,
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        shard_index=shard_index,
        shard_count=shard_count,
        read_threads=read_threads,
        read_buffer=read_buffer,
    )


def local_rows(ranges: Iterable[tuple[int, int]], batch_size: int) -> tuple[int, int]:
    """(shard index, shard count) of a process whose devices hold these row ranges (start, stop) of a global batch.

    Devices may hold the same rows (they share a model among them), and so may processes.

    Raises:
        GPT2JaxError: together they are not one contiguous, equal share.
    """
    rows = sorted({row for start, stop in ranges for row in range(start, stop)})
    if rows != list(range(rows[0], rows[-1] + 1)) or batch_size % len(rows) or rows[0] % len(rows):
        raise GPT2JaxError(
            f"mesh: this process's devices hold rows {rows} of a batch of {batch_size}: should be contiguous, and as"
            " many as every other process has"
        )
    return rows[0] // len(rows), batch_size // len(rows)


class _ContiguousShares:
    """Reorders rows within each batch so that Grain's shard i, which takes rows i, i+n, i+2n... of a batch, gets the
    i-th contiguous n-th of it. So the global batch, laid out by process, does not depend on how many there are."""

    def __init__(self, rows: Any, batch_size: int, shard_count: int) -> None:
        self._rows, self._batch_size, self._shard_count = rows, batch_size, shard_count

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        row = index % self._batch_size
        share = self._batch_size // self._shard_count
        return self._rows[index - row + row % self._shard_count * share + row // self._shard_count]


def batches(
    windows: Windows,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    shard_index: int,
    shard_count: int,
    read_threads: int = 0,
    read_buffer: int = 1,
) -> Generator[np.ndarray, None, None]:
    """Share ``shard_index`` of ``shard_count`` [B / shard_count, T+1] (int32) of each batch from ``start_step`` on.

    Every epoch goes through all windows once, in an order of its own; a batch may end one epoch and begin the next. Of
    a mixture, each part has epochs of its own, and which part a row is of depends on its place and the weights alone.
    The place to start from is found at once, without reading what comes before it.
    """
    rows = _rows(windows, seed)
    # Grain's buffer counts batches here, and should not be shorter than there are threads to fill it.
    buffer = max(-(-read_buffer * shard_count // batch_size), read_threads)
    iterator = iter(
        grain.experimental.ElasticIterator(
            rows if shard_count == 1 else grain.MapDataset.source(_ContiguousShares(rows, batch_size, shard_count)),
            batch_size,
            grain.sharding.ShardOptions(shard_index=shard_index, shard_count=shard_count),
            read_options=grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=buffer),
        )
    )
    iterator.set_state({"global_next_index": start_step * batch_size})
    try:
        yield from iterator
    finally:
        iterator.close()


def _rows(windows: Windows, seed: int) -> Any:
    """The windows in the order of training, without end."""
    if isinstance(windows, MixedWindows):
        parts = [_rows(part, seed) for part in windows.parts]
        return grain.MapDataset.mix(parts, windows.weights)
    return grain.MapDataset.source(windows).seed(seed).shuffle().repeat()


def validation_windows(windows: Windows, batch_size: int, max_batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Always the same windows, evenly spread: tokens [B, T+1] (int32) and target weights [B, T] (float32).

    ``max_batches`` 0 takes the whole split. The last batch is filled up with rows of weight 0: one shape compiles once.
    """
    count = len(windows) if max_batches == 0 else min(len(windows), max_batches * batch_size)
    chosen = [number * len(windows) // count for number in range(count)]
    for start in range(0, count, batch_size):
        some = chosen[start : start + batch_size]
        tokens_BT1 = np.zeros((batch_size, windows.n_ctx + 1), np.int32)
        weights_BT = np.zeros((batch_size, windows.n_ctx), np.float32)
        for place, index in enumerate(some):
            window = windows[index]
            tokens_BT1[place], weights_BT[place] = window if window.ndim == 1 else window[0], 1
            if window.ndim == 2:
                weights_BT[place] = window[1, 1:]
        yield tokens_BT1, weights_BT
