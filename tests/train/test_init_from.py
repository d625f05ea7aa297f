"""Training from given weights."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from gpt2jax import tokenizer
from gpt2jax.cli import main
from gpt2jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig, to_yaml
from gpt2jax.data.prepare import prepare
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.loop import train
from gpt2jax.weights.weights import Format
from tests.weights.helpers import held, same, write

MODEL = ModelConfig(n_vocab=257, n_ctx=16, n_embd=32, n_head=4, n_layer=2)
WEIGHTS = held(MODEL, encoding=tokenizer.byte_level())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text.txt"
    text.write_text("".join(f"line {number}\n" for number in range(400)))
    prepare([str(text)], folder / "shards", tokenizer="bytes", split="tail")
    return str(folder / "shards")


def make(corpus: str, run_dir: Path, source: Path | str | None, rate: float = 0.0, steps: int = 2) -> Config:
    return Config(
        model=MODEL,
        mesh=MeshConfig(data=2, fsdp=2, tensor=2, max_whole=0.1),
        data=DataConfig(path=corpus),
        optimizer=OptimizerConfig(learning_rate=rate, min_learning_rate=0.0, warmup_steps=0, decay_steps=100),
        training=TrainingConfig(
            run_dir=str(run_dir),
            init_from=None if source is None else str(source),
            steps=steps,
            batch_size=8,
            eval_batches=1,
            checkpoint_interval=steps,
        ),
    )


@pytest.mark.parametrize("to", ["huggingface", "openai", "nanogpt", "orbax", "llmc"])
def test_a_run_that_learns_nothing_ends_with_the_weights_it_was_given(corpus: str, tmp_path: Path, to: Format) -> None:
    result = train(make(corpus, tmp_path / "run", write(WEIGHTS, tmp_path, to)))
    assert same(result.params, WEIGHTS.params)
    if to == "orbax":  # Twin: without them it ends elsewhere.
        assert not same(train(make(corpus, tmp_path / "fresh", None)).params, WEIGHTS.params)


def test_a_run_goes_on_from_its_own_checkpoint_without_them(corpus: str, tmp_path: Path) -> None:
    source = write(WEIGHTS, tmp_path, "huggingface")
    whole = train(make(corpus, tmp_path / "whole", source, 1e-3, steps=4))
    train(make(corpus, tmp_path / "halves", source, 1e-3, steps=2))
    shutil.rmtree(source)
    assert same(train(make(corpus, tmp_path / "halves", source, 1e-3, steps=4)).params, whole.params)
    assert not same(whole.params, WEIGHTS.params)
    other = write(WEIGHTS, tmp_path, "openai")
    with pytest.raises(GPT2JaxError, match=r"training\.init_from: .*openai: .* has a checkpoint of step 4 already"):
        train(make(corpus, tmp_path / "halves", other, 1e-3, steps=6))
    # The run is itself something to start from.
    again = train(make(corpus, tmp_path / "again", tmp_path / "whole"))
    assert same(again.params, whole.params)


def test_a_shorter_context_is_cut(corpus: str, tmp_path: Path) -> None:
    config = make(corpus, tmp_path / "run", write(WEIGHTS, tmp_path, "huggingface"))
    shorter = dataclasses.replace(config, model=dataclasses.replace(MODEL, n_ctx=8))
    assert same(train(shorter).params, WEIGHTS.params | {"wpe": WEIGHTS.params["wpe"][:8]})


def test_weights_of_another_model_or_vocabulary_are_refused(corpus: str, tmp_path: Path) -> None:
    config = make(corpus, tmp_path / "run", write(WEIGHTS, tmp_path, "huggingface"))
    with pytest.raises(GPT2JaxError, match=r"huggingface: model\.n_layer: 3: the weights have 2"):
        train(dataclasses.replace(config, model=dataclasses.replace(MODEL, n_layer=3)))
    with pytest.raises(GPT2JaxError, match="nowhere: no such file or folder"):
        train(make(corpus, tmp_path / "run", "nowhere"))
    characters = held(MODEL, encoding=tokenizer.characters("".join(chr(300 + number) for number in range(257))))
    other = write(characters, tmp_path / "other", "huggingface")
    with pytest.raises(GPT2JaxError, match=r"its vocabulary \(bytes\) is not that of .* \(characters\)"):
        train(make(corpus, tmp_path / "run", other))


def test_the_command_takes_the_short_name(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    source = write(WEIGHTS, tmp_path, "huggingface")
    settings = tmp_path / "settings.yaml"
    settings.write_text(to_yaml(make(corpus, tmp_path / "run", None)))
    assert main(["train", str(settings), "--init-from", str(source), "--sampling.max-new-tokens", "4"]) == 0
    assert f"starting from the weights of {source}" in capsys.readouterr().out
    assert f"init_from: {source}" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["train", str(settings), "--init-from=nowhere", "--training.run-dir", str(tmp_path / "other")]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err
