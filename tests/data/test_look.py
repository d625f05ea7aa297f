"""What is counted of a folder is what is in its documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2jax.cli import main
from gpt2jax.data import show, verify
from gpt2jax.data.look import Look, look
from gpt2jax.data.prepare import prepare
from gpt2jax.data.shards import Format
from gpt2jax.errors import GPT2JaxError
from tests.data.test_prepare import corpus, quiet

TEXTS = ["first one", "ünï", "second", "first one", "x" * 50, "second", "second", "last"]


@pytest.fixture(params=[2**22, 7])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_BLOCK", request.param)


def looked(folder: Path, texts: list[str], **arguments: Any) -> dict[str, Look]:
    quiet(corpus(folder, texts), folder / "out", **({"validation_fraction": 0} | arguments))
    return {one.name: one for one in look(folder / "out", progress=False)}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("format", ["nanogpt", "llmc", "arrayrecord"])
def test_every_document_is_found(tmp_path: Path, format: Format) -> None:
    one = looked(tmp_path, TEXTS, format=format, shard_tokens=20)["train"]
    assert [one.document(number, 99) for number in range(len(TEXTS))] == TEXTS
    sizes = [len(text.encode()) for text in TEXTS]
    assert one.lengths_N.tolist() == one.bytes_N.tolist() == sizes
    assert (one.repeated, one.bytes_per_token) == (3, 1.0)
    assert one.tokens == sum(sizes) + len(TEXTS)
    assert one.counts_V[ord("x")] == 50
    assert one.document(4, 10) == "x" * 10
    with pytest.raises(GPT2JaxError, match="document: 8: should be from 0 to 7, of train"):
        one.document(8, 10)


def test_bytes_per_token_of_byte_pairs(tmp_path: Path) -> None:
    one = looked(tmp_path, ["The language reference", "語"], tokenizer="gpt2")["train"]
    assert one.lengths_N.tolist() == [3, 2]
    assert one.bytes_N.tolist() == [22, 3]
    assert one.bytes_per_token == 5.0


def test_a_corpus_without_marks_is_one_document(tmp_path: Path) -> None:
    one = looked(tmp_path, TEXTS, end_of_text=False)["train"]
    assert len(one.ends_N) == 1
    assert one.document(0, 15) == "first oneünïsec"


def test_documents_with_prompts_end_where_they_end(tmp_path: Path) -> None:
    rows = [{"prompt": "", "completion": "a"}, {"prompt": "bc", "completion": "d"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare([str(tmp_path / "p.jsonl")], tmp_path / "out", tokenizer="bytes", validation_fraction=0, progress=False)
    [one] = look(tmp_path / "out", progress=False)
    assert [one.document(number, 9) for number in range(2)] == ["a", "bcd"]
    assert one.lengths_N.tolist() == [1, 3]


def test_tables_say_what_leaks(tmp_path: Path) -> None:
    both = looked(tmp_path, [*TEXTS, "first one", "only here"], split="tail", validation_fraction=0.16)
    looks = list(both.values())
    assert [both["validation"].document(number, 99) for number in range(2)] == ["first one", "only here"]
    assert show.leaked(looks) == 1
    assert show.leaked(looks[:1]) is None
    head, train, _ = show.table(looks)
    assert dict(zip(head, train, strict=True))["duplicates"] == "3"
    assert show.frequent(both["train"])[1] == ["120", "'x'", "50", "48.54 %"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looked(tmp_path, TEXTS)
    picture = tmp_path / "p.png"
    command = ["data", "inspect", str(tmp_path / "out"), "--output", str(picture)]
    assert main([*command, "--document", "1", "4", "--random", "2", "--characters", "20"]) == 0
    out = capsys.readouterr().out
    assert "= train, document 1 =" in out
    assert "ünï\n" in out
    assert "x" * 20 + "\n" in out
    assert out.count(", document ") == 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--split", "validation"]) == 2
    assert "has none" in capsys.readouterr().err
    (tmp_path / "out" / "meta.json").unlink()
    assert main(command) == 2
    assert "name its vocabulary with --tokenizer" in capsys.readouterr().err
    assert main([*command, "--tokenizer", "bytes"]) == 0
    assert main(["data", "inspect", str(tmp_path)]) == 2


def test_the_same_tokens_have_the_same_hash_and_others_another(tmp_path: Path) -> None:
    one = looked(tmp_path, TEXTS)["train"]
    same = np.unique(one.hashes_N, return_inverse=True)[1]
    assert same[0] == same[3] != same[1]
    assert same[2] == same[5] == same[6]
