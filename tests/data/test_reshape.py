"""Shards from format to format, ArrayRecord, and tokens of 32 bits."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2jax.cli import main
from gpt2jax.data.meta import Meta, read_meta
from gpt2jax.data.pipeline import batches, open_split
from gpt2jax.data.prepare import prepare
from gpt2jax.data.records import RECORD_TOKENS
from gpt2jax.data.reshape import reshape
from gpt2jax.data.shards import Format, open_shard
from gpt2jax.data.verify import verify
from gpt2jax.errors import GPT2JaxError
from tests.data.test_prepare import LETTERS, corpus, quiet, tokens

FORMATS: list[Format] = ["nanogpt", "llmc", "arrayrecord"]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "meta.json"}


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(FORMATS, 2)))
@pytest.mark.parametrize("more", [{}, {"end_of_text": False}, {"tokenizer": "gpt2"}], ids=str)
def test_each_format_from_each_other_is_what_preparing_writes(
    tmp_path: Path, source: Format, target: Format, more: dict[str, Any]
) -> None:
    texts = corpus(tmp_path, [letter * (3 + number) for number, letter in enumerate(LETTERS)])
    quiet(texts, tmp_path / "a" / "out", format=source, shard_tokens=50, **more)
    wanted = quiet(texts, tmp_path / "b" / "out", format=target, shard_tokens=70, **more)
    reshape(tmp_path / "a" / "out", tmp_path / "c" / "out", target, shard_tokens=70, progress=False)
    assert shards(tmp_path / "c" / "out") == shards(tmp_path / "b" / "out")
    made = read_meta(tmp_path / "c" / "out")
    assert made is not None
    assert (made.train, made.validation, made.index) == (wanted.train, wanted.validation, wanted.index)
    assert len(verify(tmp_path / "c" / "out", progress=False)) == 3
    # Twin: the two places of <|endoftext|> are not the same stream.
    if "llmc" in (source, target) and more == {}:
        assert tokens(tmp_path / "a" / "out", read_meta(tmp_path / "a" / "out"), "train") != tokens(  # type: ignore[arg-type]
            tmp_path / "c" / "out", made, "train"
        )


@pytest.mark.parametrize(("source", "target"), [("nanogpt", "llmc"), ("llmc", "nanogpt")])
def test_the_cut_of_the_first_tokens_stays_where_it_was(tmp_path: Path, source: Format, target: Format) -> None:
    texts = corpus(tmp_path, [letter * 5 for letter in LETTERS])
    first = quiet(texts, tmp_path / "a" / "out", format=source, split="first", validation_tokens=10)
    quiet(texts, tmp_path / "b" / "out", format=target, split="first", validation_tokens=10)
    reshape(tmp_path / "a" / "out", tmp_path / "c" / "out", target, progress=False)
    made = read_meta(tmp_path / "c" / "out")
    assert made is not None
    assert len(verify(tmp_path / "c" / "out", progress=False)) == 3
    for split in ("train", "validation"):
        before, after = tokens(tmp_path / "a" / "out", first, split), tokens(tmp_path / "c" / "out", made, split)
        assert bytes(token for token in before if token < 256) == bytes(token for token in after if token < 256)
    assert shards(tmp_path / "c" / "out") != shards(tmp_path / "b" / "out")  # As the page says.


def test_shards_of_others_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet(corpus(tmp_path, LETTERS), tmp_path / "out", format="llmc")
    (tmp_path / "out" / "meta.json").unlink()
    command = ["data", "convert", str(tmp_path / "out"), str(tmp_path / "new"), "--to", "nanogpt"]
    assert main(command) == 2
    assert "has no meta.json: name its vocabulary with --tokenizer" in capsys.readouterr().err
    assert main([*command, "--tokenizer", "bytes"]) == 0
    assert "train: 36 tokens" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["train.bin", "val.bin"]
    assert np.fromfile(tmp_path / "new" / "val.bin", "<u2")[[1, 3]].tolist() == [256, 256]
    assert main([*command, "--tokenizer", "bytes"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["data", "reshape"]) == 2
    assert "'reshape': unknown (known: " in capsys.readouterr().err


def long_corpus(folder: Path, **arguments: Any) -> tuple[Meta, Path]:
    text = folder / "long.txt"
    text.write_text("".join(f"line {number}\n" for number in range(3 * RECORD_TOKENS // 9)))
    out = folder / str(arguments["format"])
    return quiet([str(text)], out, split="tail", **arguments), out


def test_windows_of_array_record_are_those_of_the_other_format(tmp_path: Path) -> None:
    windows = {}
    for format in ("nanogpt", "arrayrecord"):
        _, out = long_corpus(tmp_path, format=format)
        windows[format], _, _ = open_split(out, "train", 100, 257)
    ours, theirs = windows["arrayrecord"], windows["nanogpt"]
    assert ours.tokens > RECORD_TOKENS * 2
    assert len(ours) == len(theirs)
    for index in range(len(ours)):  # Some lie across two records.
        np.testing.assert_array_equal(ours[index], theirs[index])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours))[3], theirs[3])

    def first(windows: Any) -> np.ndarray:
        rows = batches(windows, seed=0, batch_size=4, start_step=5, shard_index=0, shard_count=1, read_threads=2)
        batch = next(rows)
        rows.close()
        return batch

    np.testing.assert_array_equal(first(ours), first(theirs))


def test_array_record_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.array_record"
    path.write_bytes(b"not one" * 99)
    with pytest.raises(GPT2JaxError, match=r"x\.array_record: (cannot be read as ArrayRecord|0 records)"):
        open_shard(path, "arrayrecord")


@pytest.mark.parametrize("format", FORMATS)
def test_a_vocabulary_above_16_bits_takes_32(tmp_path: Path, format: Format) -> None:
    wide = "".join(chr(code) for code in range(0x10000, 0x10000 + 65_600))
    source = corpus(tmp_path, [wide, wide[::-1]])
    given: dict[str, Any] = {"tokenizer": "characters", "validation_fraction": 0.5, "progress": False}
    meta = prepare(source, tmp_path / "out", format=format, token_bits=32, **given)
    assert (meta.n_vocab, meta.token_bits) == (65_600, 32)
    found = [tokens(tmp_path / "out", meta, split) for split in ("train", "validation")]
    assert sorted(found) == [list(range(65_600)), list(reversed(range(65_600)))]
    windows, encoding, _ = open_split(tmp_path / "out", "train", 10, 65_600)
    assert max(windows[0].max(), windows[len(windows) - 1].max()) > 2**16
    assert encoding.n_vocab == 65_600
    assert len(verify(tmp_path / "out", progress=False)) == 3
    name = meta.train.files[0]
    if format != "arrayrecord":
        header = 1024 if format == "llmc" else 0
        assert (tmp_path / "out" / name).stat().st_size == header + 4 * 65_600
    if format == "llmc":
        assert np.fromfile(tmp_path / "out" / name, "<i4", 3).tolist() == [20240801, 7, 65_600]
        with pytest.raises(GPT2JaxError, match="Llama 3 data"):  # As tokens of 16 bits it is refused.
            open_shard(tmp_path / "out" / name)
    with pytest.raises(GPT2JaxError, match="at most 65,536, what 16 bits hold; or write 32 bits a token"):
        prepare(source, tmp_path / "narrow", format=format, **given)
