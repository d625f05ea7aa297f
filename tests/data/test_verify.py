"""A folder that is checked: what is whole passes, and each kind of damage is named. And the presets."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2jax.cli import main
from gpt2jax.data.catalog import find_preset, presets
from gpt2jax.data.meta import FILE_NAME, read_meta
from gpt2jax.data.prepare import prepare
from gpt2jax.data.verify import verify
from gpt2jax.errors import GPT2JaxError
from tests.data.test_prepare import LETTERS, corpus, quiet
from tests.helpers import shared_data


def edit_meta(folder: Path, change: Any) -> None:
    mapping = json.loads((folder / FILE_NAME).read_text())
    change(mapping)
    (folder / FILE_NAME).write_text(json.dumps(mapping))


@pytest.mark.parametrize("arguments", [{}, {"format": "llmc", "shard_tokens": 7}, {"tokenizer": "characters"}], ids=str)
def test_what_is_whole_passes(tmp_path: Path, arguments: dict[str, Any]) -> None:
    quiet(corpus(tmp_path, [letter * 5 for letter in LETTERS]), tmp_path / "out", **arguments)
    lines = verify(tmp_path / "out", progress=False)
    assert "files are as they were written" in lines[0]
    assert [line.split(" ", 1)[0] for line in lines[1:]] == ["train:", "validation:"]
    assert "18 documents, 90 bytes" in lines[1]


def test_documents_with_prompts_pass(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "cd"}\n')
    meta = prepare([str(tmp_path / "a.jsonl")], tmp_path / "out", validation_fraction=0, progress=False)
    assert sorted(meta.index or ()) == ["train.bin", "train.ends", "train.mask"]
    assert verify(tmp_path / "out", progress=False)[1] == "train: 6 tokens of 2 documents with prompts"
    (tmp_path / "out" / "train.mask").write_bytes(b"\1" * 6)
    with pytest.raises(GPT2JaxError, match=r"train\.mask: sha256 .*: damaged"):
        verify(tmp_path / "out", progress=False)


def flip(folder: Path) -> None:
    raw = bytearray((folder / "train.bin").read_bytes())
    raw[2] ^= 1
    (folder / "train.bin").write_bytes(raw)


def shorten(folder: Path) -> None:
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-2])


def without_hashes(change: Any) -> Any:
    """The damage in a folder of before there were hashes: counts tell it."""

    def damage(folder: Path) -> None:
        edit_meta(folder, lambda mapping: mapping.pop("index"))
        change(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"train\.bin: sha256 \w{64}: should be \w{64} by meta\.json: damaged"),
        (shorten, r"train\.bin: [\d,]+ bytes: should be"),
        (lambda folder: (folder / "val.bin").unlink(), r"val\.bin: is missing"),
        (lambda folder: (folder / FILE_NAME).unlink(), r"holds no meta\.json"),
        (without_hashes(shorten), r"train: [\d,]+ tokens: should be"),
        (without_hashes(lambda f: (f / "train.bin").write_bytes(b"\1\2" * 36)), r"token 0: 513: should be below 257"),
        (
            without_hashes(lambda f: (f / "train.bin").write_bytes(b"\0\1" * 36)),
            r"train: 0 bytes of text: should be 18",
        ),
        (
            lambda f: edit_meta(f, lambda mapping: mapping["train"].update(documents=3)),
            r"train: 18 documents: should be 3",
        ),
        (lambda f: edit_meta(f, lambda mapping: mapping["train"].update(bytes=3)), r"train: 18 bytes of text: should"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    quiet(corpus(tmp_path, LETTERS), tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(GPT2JaxError, match=message) as caught:
        verify(tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)


def test_every_preset_is_whole_and_its_settings_are_options() -> None:
    from gpt2jax.cli.prepare import PrepareArgs

    options = {field.name for field in dataclasses.fields(PrepareArgs)}
    assert {"openwebtext", "fineweb-10B", "fineweb-edu-10B", "tinystories", "wikitext103", "pydoc"} <= presets().keys()
    for preset in presets().values():
        assert preset.settings.keys() <= options
        assert preset.address.startswith("https://")
        assert preset.provenance["licence"]
    with pytest.raises(GPT2JaxError, match=r"preset: 'openwebtxt': unknown \(nearest: openwebtext\)"):
        find_preset("openwebtxt")


@pytest.mark.parametrize(
    ("preset", "train", "validation", "hashes"),
    [
        ("tinyshakespeare", 301_966, 36_059, None),
        ("tinyshakespeare-characters", 1_003_854, 111_540, None),
        (
            "tinyshakespeare-llmc",
            305_260,
            32_768,
            [
                "8a70606be574040c26d225694f5f9759973b419852d22f7fe5c118e1b359dcc8",
                "fe99db720dc7c83e694806d4e047a952909411da1daccde4ccc2e55f40882a62",
            ],
        ),
    ],
)
def test_tiny_shakespeare_by_its_presets(
    tmp_path: Path, preset: str, train: int, validation: int, hashes: list[str] | None
) -> None:
    """The counts of nanoGPT's and llm.c's own scripts, and the very files of llm.c's."""
    source, out = str(shared_data("tinyshakespeare.txt")), tmp_path / "out"
    assert main(["prepare", source, "--preset", preset, "--out", str(out)]) == 0
    meta = read_meta(out)
    assert meta is not None
    assert meta.validation is not None
    assert meta.index is not None
    assert (meta.train.tokens, meta.validation.tokens) == (train, validation)
    assert meta.provenance is not None
    assert meta.provenance["licence"].startswith("public domain")
    assert hashes is None or [file.sha256 for file in meta.index.values()] == hashes
    assert main(["prepare", "--verify", str(out)]) == 0


def test_what_is_given_goes_before_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two")
    command = ["prepare", str(tmp_path / "a.txt"), "--preset", "tinystories", "--tokenizer", "bytes", "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "out"), "--validation-fraction", "0.5", "--split", "tail"]) == 0
    out = capsys.readouterr().out
    assert "train: 4 tokens of 1 documents, 3 bytes" in out
    assert "CDLA-Sharing" in out
    assert main(["prepare", "--preset", "tinyshakespeare", "--out", str(tmp_path / "x")]) == 2
    assert "needs its file: get https://raw.githubusercontent.com/" in capsys.readouterr().err
    assert main(["prepare", "--preset", "list"]) == 0
    assert "ODC-By" in capsys.readouterr().out


def test_shares_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(tmp_path / "a.txt"), str(tmp_path / "out")
    (tmp_path / "a.txt").write_text("one two " * 99)
    command = ["prepare", source, "--out", out, "--tokenizer", "bytes", "--split", "tail", "--workers", "1"]
    assert main([*command, "--shard", "0/2"]) == 0
    assert main([*command, "--merge"]) == 0
    assert "train: 713 tokens" in capsys.readouterr().out
    assert main([*command, "--shard", "two"]) == 2
    assert "should be a number and how many there are, such as 3/16" in capsys.readouterr().err
