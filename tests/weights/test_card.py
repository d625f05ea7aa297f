"""Every model that leaves the program says what it may do wrong."""

import dataclasses
from pathlib import Path

import pytest

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.presets import preset
from gpt2jax.risks import READING, RISKS, USES
from gpt2jax.weights.card import card
from gpt2jax.weights.convert import card_beside, convert
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format, HeldWeights, Origin
from tests.weights.helpers import FORMATS, GOLDEN


@pytest.mark.parametrize("to", FORMATS)
def test_every_form_carries_the_risks(tmp_path: Path, to: Format) -> None:
    weights = open_weights(GOLDEN / "safetensors")
    target = tmp_path / ("out.bin" if to == "llmc" else "out")
    convert(weights, target, to, progress=False)
    written = (card_beside(target) if to == "llmc" else target / "README.md").read_text(encoding="utf-8")
    assert written.endswith(f"{RISKS}\n{READING}")
    assert USES in written
    assert "say here what it was trained on" in written
    assert "The paper's figures" not in written
    assert "| parameters | 1,984 |" in written
    assert written.startswith("---\nlibrary_name: transformers\n" if to == "huggingface" else "# A GPT-2 model\n")
    # It is in nobody's way: the model is read as before.
    assert open_weights(target).config == weights.config


def test_the_card_of_a_run_has_the_runs_own_figures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    convert(open_weights(GOLDEN / "safetensors"), run / "checkpoints", "orbax", progress=False)
    (run / "report.md").write_text(
        f"# Run run\n\n| validation loss | 1.5 |\n\n## Environmental impact\n\nMuch.\n\n{RISKS}"
    )
    for number, source in enumerate((run, run / "checkpoints" / "0")):
        convert(open_weights(source), tmp_path / f"out{number}", "huggingface", progress=False)
        written = (tmp_path / f"out{number}" / "README.md").read_text(encoding="utf-8")
        assert "| validation loss | 1.5 |\n\n### Environmental impact\n\nMuch.\n" in written
        assert "Run run" not in written
        assert written.count(RISKS) == 1
        assert "say here what it was trained on" not in written
    # A report beside weights that are no run's is not theirs.
    convert(open_weights(run), tmp_path / "other" / "out", "huggingface", progress=False)
    (run / "report.md").rename(tmp_path / "other" / "report.md")
    assert "1.5" not in card(open_weights(tmp_path / "other" / "out"), "orbax", "float32")


def test_a_model_of_a_released_ones_sizes_has_its_figures_beside_it() -> None:
    config = ModelConfig(**preset("gpt2-medium"))  # type: ignore[arg-type]
    written = card(HeldWeights(Origin("held", "memory", config, None), {}), "orbax", "float32")
    assert "Zero-shot figures of OpenAI's gpt2-medium" in written
    assert "| LAMBADA | perplexity | 15.6 |" in written
    assert "this model's only if its weights are OpenAI's" in written
    other = dataclasses.replace(config, n_ctx=512)
    assert "Zero-shot" not in card(HeldWeights(Origin("held", "memory", other, None), {}), "orbax", "float32")


def test_a_card_that_is_there_is_not_lost(tmp_path: Path) -> None:
    beside = tmp_path / "out.bin.README.md"
    beside.write_text("mine")
    with pytest.raises(GPT2JaxError, match=r"out\.bin\.README\.md: exists"):
        convert(open_weights(GOLDEN / "safetensors"), tmp_path / "out.bin", "llmc", progress=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("word", ["true", "biases", "filtered", "Fine-tuning", "small"])
def test_the_risks_speak_of_what_is_known(word: str) -> None:
    assert word in RISKS
