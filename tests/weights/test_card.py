"""Every model that leaves the program says what it may do wrong."""

from pathlib import Path

import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.risks import RISKS
from gpt2jax.weights.convert import card_beside, convert
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format
from tests.weights.helpers import FORMATS, GOLDEN


@pytest.mark.parametrize("to", FORMATS)
def test_every_form_carries_the_risks(tmp_path: Path, to: Format) -> None:
    weights = open_weights(GOLDEN / "safetensors")
    target = tmp_path / ("out.bin" if to == "llmc" else "out")
    convert(weights, target, to, progress=False)
    written = (card_beside(target) if to == "llmc" else target / "README.md").read_text(encoding="utf-8")
    assert written.endswith(RISKS)
    assert "| parameters | 1,984 |" in written
    assert written.startswith("---\nlibrary_name: transformers\n" if to == "huggingface" else "# A GPT-2 model\n")
    # It is in nobody's way: the model is read as before.
    assert open_weights(target).config == weights.config


def test_a_card_that_is_there_is_not_lost(tmp_path: Path) -> None:
    beside = tmp_path / "out.bin.README.md"
    beside.write_text("mine")
    with pytest.raises(GPT2JaxError, match=r"out\.bin\.README\.md: exists"):
        convert(open_weights(GOLDEN / "safetensors"), tmp_path / "out.bin", "llmc", progress=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("word", ["true", "biases", "filtered", "Fine-tuning", "small"])
def test_the_risks_speak_of_what_is_known(word: str) -> None:
    assert word in RISKS
