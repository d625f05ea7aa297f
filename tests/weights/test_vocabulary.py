"""The vocabulary's files, rebuilt and recognised."""

import hashlib
import json
from pathlib import Path

import pytest

from gpt2jax import tokenizer
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import vocabulary


def test_openais_files_are_rebuilt_bit_for_bit() -> None:
    """Their published sizes and hashes."""
    encoder = vocabulary.encoder_json(tokenizer.gpt2()).encode()
    assert len(encoder) == 1_042_301
    assert hashlib.sha256(encoder).hexdigest() == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    merges = vocabulary.merges_text(tokenizer.gpt2()).encode()
    assert len(merges) == 456_318
    assert hashlib.sha256(merges).hexdigest() == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


def test_bytes_are_spelled_as_in_openais_program() -> None:
    characters = vocabulary.byte_characters()
    assert len(set(characters.values())) == 256
    assert (characters[ord("a")], characters[ord(" ")], characters[ord("\n")], characters[0]) == ("a", "Ġ", "Ċ", "Ā")


def test_every_vocabulary_is_recognised_by_its_own_files(tmp_path: Path) -> None:
    alphabet = tokenizer.characters("\n abcé🤗")
    for number, encoding in enumerate((tokenizer.gpt2(), tokenizer.byte_level(), alphabet)):
        for name in ("encoder.json", "vocab.json", "tokenizer.json"):
            if encoding is alphabet and name != "tokenizer.json":
                continue
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            write = vocabulary.tokenizer_json if name == "tokenizer.json" else vocabulary.encoder_json
            (folder / name).write_text(write(encoding), encoding="utf-8")
            found, note = vocabulary.read(folder, encoding.n_vocab)
            assert note is None
            assert found is not None
            assert tokenizer.to_spec(found) == tokenizer.to_spec(encoding)


def test_another_vocabulary_is_not_taken_for_gpt2s(tmp_path: Path) -> None:
    tokens = vocabulary.encoder(tokenizer.gpt2())
    tokens["hello"], tokens["Ġhello"] = tokens["Ġhello"], tokens["hello"]
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    encoding, note = vocabulary.read(tmp_path, 50257)
    assert encoding is None
    assert note is not None
    assert "is not GPT-2's vocabulary" in note
    encoding, note = vocabulary.read(tmp_path, 300)
    assert encoding is None
    assert note is not None
    assert "has 50,257 tokens and the model 300" in note


def test_without_files_only_the_number_of_tokens_speaks(tmp_path: Path) -> None:
    assert vocabulary.read(tmp_path, 50257) == (
        tokenizer.gpt2(),
        "no vocabulary came with it; taken for GPT-2's by the number of tokens",
    )
    assert vocabulary.read(tmp_path, 257)[0] is None


@pytest.mark.parametrize("text", ["{", "[]", '{"a": "b"}', '{"a": 1e999}', "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocab.json").write_text(text)
    with pytest.raises(GPT2JaxError, match=r"vocab\.json: (cannot be read as a vocabulary|not JSON|holds a list)"):
        vocabulary.read(tmp_path, 1)
