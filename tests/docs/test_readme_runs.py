"""The README's table of verbs, run: its own commands on small input, one after the other as a reader would."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpt2jax.cli import main
from tests.docs.commands import commands
from tests.docs.conftest import SIZES
from tests.docs.pages import ROOT
from tests.docs.site import module

SENTENCES = "A list is mutable. A tuple is not. The assignment statement binds names to values, and a call calls.\n"
# What makes a run of the README's own settings short.
SHORT = ["--model.n-layer=1", "--model.n-embd=40", "--training.steps=2", "--training.batch-size=8"]
SHORT += ["--training.eval-batches=1", "--sampling.max-new-tokens=4", "--sampling.num-samples=1"]


def examples(readme: str) -> dict[str, list[str]]:
    """For each verb the words behind ``gpt2jax VERB`` in the table's last column."""
    table = readme.partition("\n## The verbs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(gpt2jax .*)` \|$", table, re.M)
    return {verb: commands(command)[0][2:] for verb, command in rows}


EXAMPLES = examples((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture
def folder(stand_ins: Path) -> Path:
    """What the table's commands read."""
    (stand_ins / "configs").symlink_to(ROOT / "configs")
    (stand_ins / "book.txt").write_text(SENTENCES * 40, encoding="utf-8")
    (stand_ins / "texts.jsonl").write_text('"A text"\n{"text": "Another one"}\n', encoding="utf-8")
    return stand_ins


def test_the_verbs_of_the_readme_do_what_it_says(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def ran(verb: str, *more: str) -> str:
        args = [name for word in EXAMPLES[verb] for name in (sorted(map(str, Path().glob(word))) or [word])]
        assert main([verb, *args, *more]) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    assert "train: " in ran("prepare")
    assert Path("data/book/meta.json").is_file()
    assert "picture: inspect.png" in ran("data")
    shards = ["prepare", "book.txt", "--out", "data/pydoc", "--tokenizer", "bytes", "--split", "tail"]
    assert main(shards) == 0  # As `make quickstart` makes them, of less.
    capfd.readouterr()
    assert "after step 2" in ran("train", *SHORT)
    assert "learning_rate: 0.001" in Path("runs/quickstart/config.yaml").read_text(encoding="utf-8")
    assert "A list is" in ran("generate")
    assert "runs/quickstart" in ran("report")
    assert Path("sweep.csv").read_text(encoding="utf-8").count("\n") == 2
    assert "lambada" in ran("evaluate", "--data", "data/evaluation")
    [figures] = Path("evaluation").glob("*.json")
    assert json.loads(figures.read_text(encoding="utf-8"))["figures"]
    assert "2 texts" in ran("features")
    assert np.load("features.npz")["features"].shape == (2, SIZES["n_embd"])
    assert "huggingface" in ran("convert")
    assert Path("my_model/model.safetensors").is_file()
    assert "jax " in ran("info")


def test_the_table_is_read_as_it_stands() -> None:
    assert set(EXAMPLES) == set(module("reference").verbs())
    assert examples("\n## The verbs\n\n| `info` | all | `gpt2jax info --x 'a b'` |\n\n## ") == {"info": ["--x", "a b"]}
