"""Shards to batches: every window once, the same batch for any number of processes, resume by step."""

import itertools
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt2jax.data.pipeline import (
    TokenWindows,
    batches,
    local_rows,
    open_split,
    training_batches,
    validation_windows,
)
from gpt2jax.data.prepare import prepare
from gpt2jax.data.shards import Format, Shard, ShardWriter, Split, open_shard
from gpt2jax.errors import GPT2JaxError

T = 4


def make_windows(folder: Path, *sizes: int, n_vocab: int = 1000) -> TokenWindows:
    """Windows over shards of these sizes, in which all tokens of all shards count up from 0."""
    shards, start = [], 0
    for number, size in enumerate(sizes):
        path = folder / f"{number}.bin"
        path.write_bytes(np.arange(start, start + size, dtype="<u2").tobytes())
        shards.append(open_shard(path))
        start += size
    return TokenWindows(shards, T, n_vocab)


def take(windows: TokenWindows, steps: int, **arguments: Any) -> np.ndarray:
    """The first tokens [steps, b] of the rows of the batches: they name the windows."""
    iterator = batches(windows, **({"seed": 0, "start_step": 0, "shard_index": 0, "shard_count": 1} | arguments))
    found = np.stack(list(itertools.islice(iterator, steps)))
    iterator.close()
    assert found.dtype == np.int32
    assert found.shape[-1] == T + 1
    return found[:, :, 0]


def test_windows_lie_inside_shards(tmp_path: Path) -> None:
    # 13 tokens: 3 windows; 4 tokens: none; 8 tokens: 1, and 3 tokens that are left out; 5: 1.
    windows = make_windows(tmp_path, 13, 4, 8, 5)
    starts = [0, 4, 8, 17, 25]
    assert [windows[index].tolist() for index in range(len(windows))] == [
        list(range(start, start + T + 1)) for start in starts
    ]
    assert windows[0].dtype == np.int32
    with pytest.raises(IndexError):
        windows[5]


def test_windows_open_lazily_and_pickle_small(tmp_path: Path) -> None:
    windows = make_windows(tmp_path, 60_000, n_vocab=60_000)
    (tmp_path / "0.bin").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        windows[0]
    (tmp_path / "moved").rename(tmp_path / "0.bin")
    assert windows[2].tolist() == [8, 9, 10, 11, 12]
    pickled = pickle.dumps(windows)
    assert len(pickled) < 1000
    assert pickle.loads(pickled)[2].tolist() == [8, 9, 10, 11, 12]


def test_token_outside_the_vocabulary(tmp_path: Path) -> None:
    assert make_windows(tmp_path, 9, 9, n_vocab=18)[3].max() == 17
    windows = make_windows(tmp_path, 9, 9, n_vocab=16)
    assert windows[2].max() == 13
    with pytest.raises(GPT2JaxError, match=r"1\.bin: token 7: 16: should be below 16, the size of the vocabulary"):
        windows[3]
    # The same through Grain, whether its threads read or not.
    for threads in (0, 2):
        with pytest.raises(GPT2JaxError, match="token 7: 16"):
            take(windows, 4, batch_size=1, read_threads=threads)


def test_too_short_for_a_window(tmp_path: Path) -> None:
    assert len(make_windows(tmp_path, T + 1)) == 1
    with pytest.raises(GPT2JaxError, match=r"0\.bin: 4 tokens: should be at least 5, one window of model\.n_ctx \(4\)"):
        make_windows(tmp_path, T, T - 1)


def test_every_window_once_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    windows = make_windows(tmp_path, 41, 41, 41)
    order = take(windows, 3 * 30 // 6, batch_size=6).reshape(3, 30)
    everything = sorted(windows[index][0] for index in range(len(windows)))
    assert [sorted(epoch) for epoch in order.tolist()] == [everything] * 3
    assert len({tuple(epoch) for epoch in [*order.tolist(), everything]}) == 4


def test_a_batch_may_cross_epochs(tmp_path: Path) -> None:
    order = take(make_windows(tmp_path, 41), 7, batch_size=7).reshape(-1)
    for start in range(0, 40, 10):
        assert len(set(order[start : start + 10].tolist())) == 10


def test_order_is_a_function_of_the_seed(tmp_path: Path) -> None:
    windows = make_windows(tmp_path, 81)
    same, again, other = (take(windows, 10, batch_size=4, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()
    # Not the same orders moved on by an epoch, either.
    assert (same[5:] != other[:5]).any()
    assert take(windows, 2, batch_size=4, seed=2**40).shape == (2, 4)


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_is_exact(tmp_path: Path, threads: int) -> None:
    windows = make_windows(tmp_path, 81)
    whole = take(windows, 12, batch_size=6, read_threads=threads, read_buffer=8)
    for step in (0, 1, 5, 11):
        resumed = take(windows, 1, batch_size=6, start_step=step, read_threads=threads, read_buffer=8)
        np.testing.assert_array_equal(resumed[0], whole[step])
        assert (resumed[0] != whole[(step + 1) % 12]).any()


def test_grain_finds_nothing_to_warn_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    windows = make_windows(tmp_path, 81)
    for threads, buffer in itertools.product((0, 4), (1, 64)):
        take(windows, 2, batch_size=8, read_threads=threads, read_buffer=buffer)
    assert not caplog.records


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("start", [0, 3])
def test_global_batch_does_not_depend_on_the_processes(tmp_path: Path, count: int, start: int) -> None:
    windows = make_windows(tmp_path, 81, 21)
    whole = take(windows, 6, batch_size=8, start_step=start)
    parts = [
        take(windows, 6, batch_size=8, start_step=start, shard_index=index, shard_count=count) for index in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    if count > 1:
        assert (np.concatenate(parts[::-1], axis=1) != whole).any()


@pytest.mark.parametrize(
    ("ranges", "batch_size", "expected"),
    [
        ([(0, 8)], 8, (0, 1)),
        ([(4, 6), (6, 8)], 8, (1, 2)),
        ([(6, 8), (4, 6), (4, 6)], 8, (1, 2)),
        ([(3, 4)], 4, (3, 4)),
        ([(0, 4), (0, 4)], 12, (0, 3)),
    ],
)
def test_local_rows(ranges: Iterable[tuple[int, int]], batch_size: int, expected: tuple[int, int]) -> None:
    assert local_rows(ranges, batch_size) == expected


@pytest.mark.parametrize("ranges", [[(0, 2), (4, 6)], [(0, 3)], [(1, 3)]])
def test_rows_that_are_no_equal_share(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(GPT2JaxError, match=r"mesh: this process's devices hold rows .* of a batch of 8"):
        local_rows(ranges, 8)


def test_training_batches_are_this_process_rows(tmp_path: Path) -> None:
    windows = make_windows(tmp_path, 161)
    devices = np.array(jax.devices())
    mesh = Mesh(devices.reshape(-1, 1), ("data", "tensor"))
    size = 2 * devices.size
    iterator = training_batches(
        windows,
        seed=7,
        batch_size=size,
        start_step=2,
        batch_sharding=NamedSharding(mesh, PartitionSpec("data", None)),
        read_threads=2,
        read_buffer=32,
    )
    with_threads = [next(iterator) for _ in range(3)]
    iterator.close()
    expected = take(windows, 3, batch_size=size, seed=7, start_step=2)
    np.testing.assert_array_equal(np.stack(with_threads)[:, :, 0], expected)


def covered(windows: TokenWindows, batch_size: int, max_batches: int) -> tuple[list[int], list[tuple[int, ...]]]:
    """First tokens of the rows that count, and the shapes."""
    starts, shapes = [], []
    for tokens_BT1, weights_BT in validation_windows(windows, batch_size, max_batches):
        assert (tokens_BT1.dtype, weights_BT.dtype) == (np.int32, np.float32)
        real_B = weights_BT.all(axis=1)
        assert not weights_BT[~real_B].any()
        starts += tokens_BT1[real_B, 0].tolist()
        shapes += [tokens_BT1.shape, weights_BT.shape]
    return starts, shapes


def test_validation_takes_every_window_once_and_pads(tmp_path: Path) -> None:
    starts, shapes = covered(make_windows(tmp_path, 41), 4, 0)
    assert starts == list(range(0, 40, T))
    assert shapes == [(4, T + 1), (4, T)] * 3


def test_validation_is_evenly_spread(tmp_path: Path) -> None:
    windows = make_windows(tmp_path, 401)
    assert covered(windows, 5, 4)[0] == [5 * T * number for number in range(20)]
    assert covered(windows, 5, 4) == covered(windows, 5, 4)
    assert covered(windows, 5, 4)[0] != covered(windows, 5, 3)[0]
    assert covered(windows, 5, 1000)[0] == covered(windows, 5, 0)[0]


def prepared(folder: Path, **arguments: Any) -> Path:
    source = folder / "corpus.txt"
    source.write_text("üabc\n" * 200, encoding="utf-8", newline="")
    out = folder / "out"
    given: dict[str, Any] = {"tokenizer": "bytes", "split": "tail", "progress": False} | arguments
    prepare([str(source)], out, **given)
    return out


def test_open_split_reads_meta(tmp_path: Path) -> None:
    out = prepared(tmp_path, format="llmc", shard_tokens=500)
    windows, encoding, bytes_per_token = open_split(out, "train", T, 257)
    assert [shard.tokens for shard in windows.shards] == [500, 500, 81]
    assert encoding.name == "bytes"
    assert bytes_per_token == 1080 / 1081
    assert bytes(windows[1].tolist()).decode() == "bc\nü"  # The first token is <|endoftext|>.
    held_out, _, _ = open_split(out, "validation", T, 257, "bytes")
    assert [shard.tokens for shard in held_out.shards] == [121]


def test_open_split_with_characters_counts_bytes_not_characters(tmp_path: Path) -> None:
    windows, encoding, bytes_per_token = open_split(prepared(tmp_path, tokenizer="characters"), "train", T, 5)
    assert bytes_per_token == 1080 / 900
    assert encoding.decode(windows[0].tolist()) == "üabc\n"


def test_open_split_refuses_another_vocabulary(tmp_path: Path) -> None:
    out = prepared(tmp_path)
    with pytest.raises(GPT2JaxError) as caught:
        open_split(out, "train", T, 50257)
    assert str(caught.value) == f"model.n_vocab: 50257: should be 257, the vocabulary of {out} (bytes)"
    with pytest.raises(GPT2JaxError, match=r"data\.tokenizer: 'gpt2': should be auto or bytes"):
        open_split(out, "train", T, 257, "gpt2")


def test_open_split_refuses_files_that_meta_does_not_describe(tmp_path: Path) -> None:
    out = prepared(tmp_path)
    train = (out / "train.bin").read_bytes()
    (out / "train.bin").write_bytes(train[:-2])
    with pytest.raises(GPT2JaxError, match=r"train: 1,080 tokens: should be 1,081 by its meta\.json"):
        open_split(out, "train", T, 257)
    (out / "train.bin").write_bytes(np.array([20240520, 1, 0], "<i4").tobytes() + train)
    with pytest.raises(GPT2JaxError, match="wrong header"):
        open_split(out, "train", T, 257)
    (out / "train.bin").unlink()
    with pytest.raises(GPT2JaxError, match=r"train\.bin: cannot be read"):
        open_split(out, "train", T, 257)
    assert len(open_split(out, "validation", T, 257)[0]) == 30


def foreign(folder: Path, name: str, split: Split, format: Format) -> Path:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, name, split, format, 257, 100) as writer:
        writer.write(np.arange(250))
    return folder


@pytest.mark.parametrize(("format", "sizes"), [("nanogpt", [250]), ("llmc", [100, 100, 50])])
def test_open_split_without_meta(tmp_path: Path, format: Format, sizes: list[int]) -> None:
    folder = foreign(tmp_path / "data", "fineweb", "train", format)
    windows, encoding, bytes_per_token = open_split(folder, "train", T, 257, "bytes")
    assert [shard.tokens for shard in windows.shards] == sizes
    assert encoding.name == "bytes"
    assert bytes_per_token is None
    with pytest.raises(GPT2JaxError, match=r"data\.tokenizer: 'auto': .*no meta\.json: add --data\.tokenizer gpt2"):
        open_split(folder, "train", T, 257)
    with pytest.raises(GPT2JaxError, match=r"model\.n_vocab: 257: should be 50257"):
        open_split(folder, "train", T, 257, "gpt2")
    with pytest.raises(GPT2JaxError, match=r"no validation shards: should hold meta\.json, val\.bin or \*_val_\*\.bin"):
        open_split(folder, "validation", T, 257, "bytes")


def test_open_split_without_meta_knows_the_format_by_the_name(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "data", "x", "train", "llmc")
    (folder / "x_train_000001.bin").write_bytes(b"\0\0" * 2000)
    with pytest.raises(GPT2JaxError, match="wrong header"):
        open_split(folder, "train", T, 257, "bytes")
    # llm.c's tinyshakespeare has no numbers.
    (folder / "x_train_000001.bin").unlink()
    (folder / "x_train_000002.bin").unlink()
    (folder / "x_train_000003.bin").rename(folder / "tiny_shakespeare_train.bin")
    assert open_split(folder, "train", T, 257, "bytes")[0].shards[0].tokens == 50
    foreign(folder, "x", "train", "nanogpt")
    with pytest.raises(GPT2JaxError, match=r"train\.bin and tiny_shakespeare_train\.bin: should be of one format"):
        open_split(folder, "train", T, 257, "bytes")


def test_open_split_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match=r"data\.path: .*nowhere: no such file or folder: should be text, or"):
        open_split(tmp_path / "nowhere", "train", T, 257)


def test_shard_is_read_from_disk_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x01\0\x02\0")
    mapped = Shard(path, "nanogpt", 2, 0).memmap()
    assert isinstance(mapped, np.memmap)
    assert mapped.tolist() == [1, 2]
