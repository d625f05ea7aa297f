"""Corpus to folder: what is written, where, and what is left when it goes wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2jax import tokenizer
from gpt2jax.data.meta import Meta, read_meta
from gpt2jax.data.prepare import prepare
from gpt2jax.data.shards import Format, Split
from gpt2jax.errors import GPT2JaxError
from tests.helpers import shared_data

EOT = 256


def corpus(folder: Path, documents: list[str], name: str = "corpus.jsonl") -> list[str]:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8", newline="")
    return [str(path)]


def tokens(folder: Path, meta: Meta, split: Split) -> list[int]:
    return np.concatenate([shard.memmap() for shard in meta.open_shards(folder, split)]).tolist()


def quiet(sources: list[str], out: Path, **arguments: Any) -> Meta:
    given: dict[str, Any] = {"tokenizer": "bytes", "progress": False} | arguments
    return prepare(sources, out, **given)


LETTERS = [chr(ord("a") + number) for number in range(20)]


@pytest.mark.parametrize(
    ("format", "expected"),
    [("nanogpt", [104, 105, EOT, 121, 111, EOT]), ("llmc", [EOT, 104, 105, EOT, 121, 111])],
)
def test_where_end_of_text_stands(tmp_path: Path, format: Format, expected: list[int]) -> None:
    sources = corpus(tmp_path, ["hi", "yo", "??"])
    meta = quiet(sources, tmp_path / "out", format=format, split="tail", validation_fraction=0.33)
    assert tokens(tmp_path / "out", meta, "train") == expected
    assert meta.train.documents == 2
    assert (meta.train.tokens, meta.train.bytes) == (6, 4)
    bare = quiet(sources, tmp_path / "bare", format=format, split="tail", validation_fraction=0.33, end_of_text=False)
    assert tokens(tmp_path / "bare", bare, "train") == [104, 105, 121, 111]


def test_files_and_meta(tmp_path: Path) -> None:
    sources = corpus(tmp_path, LETTERS)
    meta = quiet(sources, tmp_path / "new" / "out", format="llmc", shard_tokens=16)
    folder = tmp_path / "new" / "out"
    assert sorted(path.name for path in folder.iterdir()) == sorted([
        "meta.json", "out_train_000001.bin", "out_train_000002.bin", "out_train_000003.bin", "out_val_000000.bin",
    ])  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert read_meta(folder) == meta
    written = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert written["format_version"] == 1
    assert written["tokenizer"] == {"name": "bytes"}
    assert written["n_vocab"] == 257
    assert written["sources"] == sources
    assert written["validation"] == {"files": ["out_val_000000.bin"], "tokens": 4, "documents": 2, "bytes": 2}


def test_text_is_never_a_special_token(tmp_path: Path) -> None:
    sources = corpus(tmp_path, [tokenizer.END_OF_TEXT] * 2)
    meta = quiet(sources, tmp_path / "out", validation_fraction=0.5)
    assert tokens(tmp_path / "out", meta, "train") == [*tokenizer.END_OF_TEXT.encode(), EOT]


def validation_letters(tmp_path: Path, seed: int) -> str:
    out = tmp_path / f"seed{seed}"
    meta = quiet(corpus(tmp_path, LETTERS), out, end_of_text=False, validation_fraction=0.25, seed=seed)
    train, validation = (bytes(tokens(out, meta, split)).decode() for split in ("train", "validation"))
    assert sorted(train + validation) == LETTERS
    return validation


def test_one_document_of_every_block_is_validation(tmp_path: Path) -> None:
    found = [validation_letters(tmp_path, seed) for seed in range(4)]
    for letters in found:
        assert [LETTERS.index(letter) // 4 for letter in letters] == [0, 1, 2, 3, 4]
    assert len(set(found)) > 1
    # The place in the block changes from block to block too.
    assert len({LETTERS.index(letter) % 4 for letter in found[0]}) > 1


def test_tail_cuts_the_characters(tmp_path: Path) -> None:
    sources = corpus(tmp_path, ["ab", "cdef", "gh"])
    meta = quiet(sources, tmp_path / "out", split="tail", validation_fraction=0.5)
    assert tokens(tmp_path / "out", meta, "train") == [*b"ab", EOT, *b"cd", EOT]
    assert tokens(tmp_path / "out", meta, "validation") == [*b"ef", EOT, *b"gh", EOT]


def test_characters_have_the_alphabet_of_the_corpus(tmp_path: Path) -> None:
    meta = quiet(corpus(tmp_path, ["dcü", "aab"]), tmp_path / "out", tokenizer="characters", validation_fraction=0.5)
    assert meta.tokenizer == {"name": "characters", "characters": "abcdü"}
    assert meta.n_vocab == 5
    found = sorted((tokens(tmp_path / "out", meta, "train"), tokens(tmp_path / "out", meta, "validation")))
    assert found == [[0, 0, 1], [3, 2, 4]]
    assert meta.encoding().decode([3, 2, 4]) == "dcü"
    assert meta.validation is not None
    assert {meta.train.bytes, meta.validation.bytes} == {3, 4}


@pytest.mark.parametrize(
    ("name", "end_of_text", "train", "validation"),
    [
        ("characters", True, 1_003_854, 111_540),
        ("gpt2", False, 301_966, 36_059),
        ("gpt2", True, 301_967, 36_060),
    ],
)
def test_nanogpt_shakespeare(tmp_path: Path, name: str, end_of_text: bool, train: int, validation: int) -> None:
    """The counts in nanoGPT's data/shakespeare_char/prepare.py and data/shakespeare/prepare.py."""
    source = str(shared_data("tinyshakespeare.txt"))
    meta = quiet([source], tmp_path / "out", tokenizer=name, split="tail", end_of_text=end_of_text)
    assert meta.validation is not None
    assert (meta.train.tokens, meta.validation.tokens) == (train, validation)
    assert meta.n_vocab == (65 if name == "characters" else 50257)
    assert meta.train.bytes + meta.validation.bytes == 1_115_394


def test_pydoc_fills_both_splits(tmp_path: Path) -> None:
    meta = quiet(["pydoc"], tmp_path / "pydoc")
    assert meta.train.documents > 60
    assert meta.validation is not None
    assert meta.validation.documents >= 7
    assert meta.train.tokens == meta.train.bytes + meta.train.documents


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    sources = corpus(tmp_path, LETTERS)
    first = quiet(sources, tmp_path / "out")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}

    def refuse(done: int, total: int) -> None:
        raise AssertionError("the corpus was encoded again")

    assert quiet(sources, tmp_path / "out", progress=refuse) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps


@pytest.mark.parametrize("change", [{"seed": 1}, {"format": "llmc"}, {"end_of_text": False}, {"shard_tokens": 9}])
def test_a_folder_made_otherwise_is_kept(tmp_path: Path, change: dict[str, Any]) -> None:
    sources = corpus(tmp_path, LETTERS)
    first = quiet(sources, tmp_path / "out")
    with pytest.raises(GPT2JaxError, match="out: not empty, and not made from these sources and settings"):
        quiet(sources, tmp_path / "out", **change)
    assert read_meta(tmp_path / "out") == first


def test_a_folder_made_from_another_text_is_kept(tmp_path: Path) -> None:
    quiet(corpus(tmp_path, LETTERS), tmp_path / "out")
    with pytest.raises(GPT2JaxError, match="not empty, and not made from these"):
        quiet(corpus(tmp_path, [*LETTERS[:-1], "x"]), tmp_path / "out")


def test_a_damaged_folder_is_not_taken_for_ready(tmp_path: Path) -> None:
    sources = corpus(tmp_path, LETTERS)
    quiet(sources, tmp_path / "out")
    (tmp_path / "out" / "val.bin").write_bytes(b"\0\0")
    with pytest.raises(GPT2JaxError, match=r"out: validation: 1 tokens: should be 4 by its meta\.json"):
        quiet(sources, tmp_path / "out")


def test_other_peoples_folders_and_files_are_kept(tmp_path: Path) -> None:
    sources = corpus(tmp_path, LETTERS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(GPT2JaxError, match="notes: not empty"):
        quiet(sources, tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]
    with pytest.raises(GPT2JaxError, match="a file is in the way"):
        quiet(sources, tmp_path / "corpus.jsonl")
    (tmp_path / "empty").mkdir()
    assert quiet(sources, tmp_path / "empty").train.documents == 18


def stop(error: type[BaseException]) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    return report


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_it_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    sources = corpus(tmp_path, LETTERS)
    with pytest.raises(error):
        quiet(sources, tmp_path / "out", progress=stop(error))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_progress_counts_the_bytes_of_the_sources(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    sources = corpus(tmp_path, LETTERS)
    quiet(sources, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    size = Path(sources[0]).stat().st_size
    assert len(calls) == len(LETTERS)
    assert calls[-1] == (size, size)
    assert calls == sorted(calls)


def test_nothing_is_drawn_off_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet(corpus(tmp_path, LETTERS), tmp_path / "out", progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    quiet(corpus(tmp_path, LETTERS), tmp_path / "out", progress=True)
    output, bar = capfd.readouterr()
    assert output == ""
    assert "Encoding" in bar


@pytest.mark.parametrize(
    ("documents", "arguments", "message"),
    [
        (["only one"], {"validation_fraction": 0.5}, r"no documents among the corpus's 1: .*--split tail"),
        (LETTERS[:3], {"validation_fraction": 0.001}, r"validation: no documents among the corpus's 3"),
        (["a"], {"split": "tail"}, r"train: no documents among the corpus's 1"),
        (LETTERS, {"validation_fraction": -0.1}, r"validation fraction: -0\.1: should be at least 0 and at most 0\.5"),
        (LETTERS, {"validation_fraction": 0.6}, r"validation fraction: 0\.6: should be"),
        (LETTERS, {"seed": -1}, r"seed: -1: should be at least 0"),
        (LETTERS, {"shard_tokens": 0, "format": "llmc"}, r"shard tokens: 0: should be from 1"),
        (LETTERS, {"text_key": "body"}, r"corpus\.jsonl: line 1: no key 'body'"),
        (LETTERS, {"tokenizer": "gpt-2"}, r"tokenizer: 'gpt-2': unknown \(nearest: gpt2\)"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    tmp_path: Path, documents: list[str], arguments: dict[str, Any], message: str
) -> None:
    sources = corpus(tmp_path, documents)
    with pytest.raises(GPT2JaxError, match=message) as caught:
        quiet(sources, tmp_path / "out", **arguments)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_character_vocabulary_above_16_bits_is_refused(tmp_path: Path) -> None:
    wide = "".join(chr(code) for code in range(0x10000, 0x10000 + 65537))
    with pytest.raises(GPT2JaxError, match="vocabulary: 65,537 tokens"):
        quiet(corpus(tmp_path, [wide] * 2), tmp_path / "out", tokenizer="characters", validation_fraction=0.5)


def edited(meta: Meta, **changes: Any) -> str:
    mapping = json.loads(meta.to_json()) | changes
    return json.dumps({key: value for key, value in mapping.items() if value is not None})


def test_meta_round_trip_and_refusals(tmp_path: Path) -> None:
    meta = quiet(corpus(tmp_path, [*LETTERS, "ü"]), tmp_path / "out", tokenizer="characters")
    assert Meta.from_json(meta.to_json(), "m") == meta
    assert Meta.from_json(edited(meta, seed=5), "m") != meta
    for text, message in [
        (meta.to_json()[:-5], r"^m: not JSON"),
        ("[]", r"^m: list: should be an object"),
        (edited(meta, format_version=2), r"^m: format_version: 2: should be 1"),
        (edited(meta, format_version=None), r"^m: format_version: None: should be 1"),
        (edited(meta, n_vocab=None), r"^m: n_vocab: missing"),
        (edited(meta, n_vocab="5"), r"^m: n_vocab: '5': should be a valid integer"),
        (edited(meta, format="npy"), r"^m: format: 'npy': should be 'nanogpt', 'llmc' or 'arrayrecord'"),
        (edited(meta, train={"files": [], "tokens": 1, "documents": 1, "bytes": 1}), r"^m: train\.files: \[\]"),
    ]:
        with pytest.raises(GPT2JaxError, match=message) as caught:
            Meta.from_json(text, "m")
        assert "\n" not in str(caught.value)
