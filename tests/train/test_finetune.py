"""Fine-tuning as a user does it: one command, from weights of any form and a text."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from gpt2jax import config as settings
from gpt2jax import tokenizer
from gpt2jax.checkpoint import read_meta
from gpt2jax.cli import main
from gpt2jax.config import Config, LoraConfig, ModelConfig
from gpt2jax.data.meta import read_meta as read_corpus
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.compare import Run
from gpt2jax.train.corpus import open_corpus
from gpt2jax.train.loop import train
from gpt2jax.train.patience import is_best, out_of_patience
from gpt2jax.train.runlog import Row, read_rows
from gpt2jax.weights.sources import load
from gpt2jax.weights.weights import Format
from tests.helpers import by_path, distance
from tests.weights.helpers import held, same, write

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = ModelConfig(n_vocab=257, n_ctx=32, n_embd=32, n_head=4, n_layer=2)
WEIGHTS = held(MODEL, encoding=tokenizer.byte_level())
TEXT = "".join(f"{number} times {number} is {number * number}.\n" for number in range(300))
QUICK = [
    "--training.steps=6", "--training.batch-size=8", "--training.micro-batches=1", "--training.eval-interval=2",
    "--training.eval-batches=1", "--training.checkpoint-interval=6", "--training.log-interval=1",
    "--sampling.max-new-tokens=4", "--optimizer.learning-rate=3e-3", "--optimizer.warmup-steps=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2JAX_CACHE", str(tmp_path / "cache"))
    Path("book.txt").write_text(TEXT)
    return tmp_path


def stored(checkpoint: str) -> list[str]:
    """Names of the parameters whose arrays are in a checkpoint."""
    names = json.loads(Path(checkpoint, "state", "_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
    paths = (".".join(re.findall(r"'([^']+)'", name)) for name in names)
    return [path for path in paths if path.startswith("params.")]


def run(recipe: str, source: Path | str, *args: str) -> int:
    return main(["train", str(CONFIGS / "finetune" / recipe), "--init-from", str(source), *QUICK, *args])


def losses(run_dir: str) -> list[float]:
    return [row["loss"] for row in read_rows(run_dir) if "loss" in row]


@pytest.mark.parametrize("to", ["huggingface", "openai", "nanogpt", "orbax", "llmc"])
def test_from_weights_of_any_form_to_any_form(folder: Path, capsys: pytest.CaptureFixture[str], to: Format) -> None:
    source = write(WEIGHTS, folder, to)
    # What these two hold does not say which vocabulary it is in, when it is not GPT-2's.
    named = ["--data.tokenizer", "bytes"] if to in ("nanogpt", "llmc") else []
    assert run("text.yaml", source, "--data", "book.txt", "--export", to, *named) == 0
    out = capsys.readouterr().out
    assert "prepared book.txt" in out
    assert out.index("memory, estimated:") < out.index("step      1/6")
    assert "SAMPLE 3" in out
    assert "SAMPLE 3" in Path("runs/finetune/samples.txt").read_text(encoding="utf-8")
    found = losses("runs/finetune")
    assert found[-1] < found[0]
    suffix = ".bin" if to == "llmc" else ""
    exported = load(Path("runs/finetune/export") / f"{to}{suffix}")
    assert same(exported.params, load("runs/finetune").params)
    assert not same(exported.params, WEIGHTS.params)  # Twin: it has learned.
    assert settings.load("runs/finetune/config.yaml").model.n_embd == MODEL.n_embd
    # Once more: the same weights in the place of those of before.
    assert run("text.yaml", source, "--data", "book.txt", "--export", to) == 0
    assert same(load(Path("runs/finetune/export") / f"{to}{suffix}").params, exported.params)


def test_a_file_that_shortens_the_context_keeps_the_other_sizes(folder: Path) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    recipe = yaml.safe_load((CONFIGS / "finetune" / "text.yaml").read_text())
    Path("short.yaml").write_text(yaml.safe_dump(recipe | {"model": recipe.get("model", {}) | {"n_ctx": 16}}))
    assert run(str(folder / "short.yaml"), source, "--data", "book.txt", "--training.steps=1") == 0
    model = settings.load("runs/finetune/config.yaml").model
    assert (model.n_ctx, model.n_embd, model.n_layer) == (16, MODEL.n_embd, MODEL.n_layer)


def test_the_same_command_goes_on_and_notices_another_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    args: list[str] = ["text.yaml", str(source), "--data", "book.txt", "--model.n-ctx", "16"]
    assert run(*args, "--training.steps=2") == 0
    assert {"wte", "wpe", "h"} <= {name.split(".")[1] for name in stored("runs/finetune/checkpoints/2")}
    assert settings.load("runs/finetune/config.yaml").model.n_ctx == 16
    made = Path("runs/finetune/data/train.bin").stat().st_mtime_ns
    capsys.readouterr()
    Path("book.txt").write_text(TEXT + "more")
    assert run(*args) == 2
    assert "book.txt: has changed since runs/finetune/data was made" in capsys.readouterr().err
    Path("book.txt").unlink()
    assert run(*args) == 0
    out = capsys.readouterr().out
    assert "book.txt: is gone; going on with what was made of it" in out
    assert "resumed runs/finetune at step 2 of 6" in out
    assert Path("runs/finetune/data/train.bin").stat().st_mtime_ns == made


def test_a_text_too_small_to_hold_any_out_is_trained_on_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    Path("book.txt").write_text(TEXT[:200])
    args: list[str] = ["text.yaml", str(source), "--data", "book.txt"]
    assert run(*args) == 0
    out = capsys.readouterr().out
    assert "too small to hold out a validation set" in out
    assert "no validation loss that tells of over-fitting or that training.patience could wait for" in out
    assert "no validation tokens" in out
    assert "validation loss" not in out.split("SAMPLE", 1)[1]
    meta = read_corpus(Path("runs/finetune/data"))
    assert meta is not None
    assert (meta.train.bytes, meta.validation) == (200, None)
    # Shards that were made without are another matter: whoever asks for patience may have meant others.
    assert run("text.yaml", source, "--data=runs/finetune/data", "--training.run-dir=other") == 2
    assert "training.patience: 5: waits for a validation loss" in capsys.readouterr().err


def test_a_lora_run_resumes_generates_and_exports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    args: list[str] = ["lora.yaml", str(source), "--data", "book.txt"]
    assert run(*args, "--training.run-dir=whole", "--export", "huggingface") == 0
    assert run(*args, "--training.run-dir=halves", "--training.steps=2", "--optimizer.decay-steps=6") == 0
    halves, whole = losses("halves"), losses("whole")
    shutil.rmtree(source)
    assert main(["train", "--resume", "halves", "--training.steps=6", "--optimizer.decay-steps=6"]) == 0
    assert losses("halves") == whole != halves
    assert same(load("halves").params, load("whole").params)
    assert whole[-1] < whole[0]
    # Kernels of blocks have changed, and nothing else.
    for path, leaf in by_path(load("whole").params).items():
        changed = not np.array_equal(leaf, by_path(WEIGHTS.params)[path])
        assert changed == path.endswith("/kernel"), path
    assert same(load("whole/base").params, WEIGHTS.params)
    assert distance(load("whole/export/huggingface").params, load("whole").params) == 0
    assert read_meta("whole").adapters is not None
    assert {name.split(".")[1] for name in stored("whole/checkpoints/6")} == {"lora"}
    capsys.readouterr()
    assert main(["generate", "--model", "whole", "3 times", "--max-new-tokens", "2"]) == 0
    shutil.move("whole/base", "gone")
    capsys.readouterr()
    assert main(["generate", "--model", "whole", "3 times"]) == 2
    assert "the weights that they belong to should be in" in capsys.readouterr().err
    shutil.copytree("halves/checkpoints/6", "whole/base/0")
    assert main(["generate", "--model", "whole", "3 times"]) == 2
    assert "other weights than those that the adapters" in capsys.readouterr().err


def test_completions_alone_teach(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    lines = [{"prompt": f"{number} and {number}:", "completion": f" {2 * number}"} for number in range(40)]
    Path("examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("instructions.yaml", source, "--data", "examples.jsonl") == 0
    found = losses("runs/instructions")
    assert found[-1] < found[0]
    out = capsys.readouterr().out
    assert "bits per byte" not in out
    # An example is a window, its first token no target: the others count, and padding does not.
    meta = read_corpus(Path("runs/instructions/data"))
    assert meta is not None
    share = (meta.train.tokens - meta.train.documents) / (meta.train.documents * MODEL.n_ctx)
    assert 0.2 < share < 0.5
    assert f"8 x 32 positions a step, of which {100 * share:.0f} % hold tokens and " in out
    rows = [row for row in read_rows("runs/instructions") if "loss" in row]
    assert [row["tokens"] for row in rows] == [round(share * 8 * 32 * step) for step in range(1, 7)]
    timed = rows[-1]
    assert timed["tokens_per_second"] == pytest.approx(share * 8 * 32 / timed["step_seconds"])
    report = Path("runs/instructions/report.md").read_text()
    assert f"| training tokens | {round(share * 8 * 32 * 6):,} in {8 * 32 * 6:,} positions, on the average" in report
    assert Run.read("runs/instructions").figures()["tokens"] == rows[-1]["tokens"]
    # Samples answer prompts that were held out, one of every ten: three of the four.
    held_out = [10 * block + int(np.random.default_rng((0, block)).integers(10)) for block in range(4)]
    samples = Path("runs/instructions/samples.txt").read_text(encoding="utf-8")
    assert re.findall(r"^=+ SAMPLE \d =+\n(\d+) and \1:", samples, re.MULTILINE) == [
        str(held_out[i]) for i in (0, 1, 2)
    ]


def test_patience_is_a_function_of_the_validations() -> None:
    training = settings.TrainingConfig(patience=2, eval_interval=10, steps=100)
    found = [4.0, 3.0, 3.5, 3.0, 2.0]
    rows: list[Row] = []
    for number, loss in enumerate(found, 1):
        rows.append({"step": 10.0 * number, "validation_loss": loss})
        assert is_best(rows, training) == (number in (1, 2, 5))
        assert bool(out_of_patience(rows, training)) == (number == 4)
    # One where a run was stopped by hand counts for nothing.
    rows = [*rows[:2], {"step": 25.0, "validation_loss": 1.0}, *rows[2:4]]
    assert "the best is 3.0000 nats per token, at step 20" in out_of_patience(rows, training)
    assert not out_of_patience(rows[:-1], training)


def test_a_run_out_of_patience_ends_with_its_best_and_stays_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(WEIGHTS, folder, "huggingface")
    hot = ["--data=book.txt", "--optimizer.learning-rate=1.0", "--training.patience=2", "--training.steps=40"]
    args = [*hot, "--training.eval-interval=1", "--training.checkpoint-interval=40", "--export", "orbax"]
    assert run("text.yaml", source, *args) == 0
    out = capsys.readouterr().out
    assert "stopped early at step" in out
    rows = [row for row in read_rows("runs/finetune") if "validation_loss" in row]
    best = min(rows, key=lambda row: row["validation_loss"])
    assert rows[-1]["step"] == best["step"] + 2 < 40
    assert f"checkpoints/{best['step']}, which" in out
    assert same(load("runs/finetune/export/orbax").params, load(f"runs/finetune/checkpoints/{best['step']}").params)
    assert not same(load("runs/finetune/export/orbax").params, load("runs/finetune").params)
    samples = Path("runs/finetune/samples.txt").read_text(encoding="utf-8")
    assert samples.count("########") == samples.count(f"######## step {best['step']}, the best\n") == 1
    assert run("text.yaml", source, *args) == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert Path("runs/finetune/samples.txt").read_text(encoding="utf-8") == samples


def test_where_the_documents_held_out_are_too_short_the_end_of_the_text_is(folder: Path) -> None:
    chosen = int(np.random.default_rng((0, 0)).integers(10))  # By `prepare`, of ten.
    texts = ["short" if number == chosen else TEXT[:900] for number in range(10)]
    Path("many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = Config(model=MODEL, data=settings.DataConfig(path="many.jsonl"))
    assert open_corpus(config).held_out is not None
    meta = read_corpus(Path("runs/run/data"))
    assert meta is not None
    assert meta.split == "tail"


def test_a_text_may_move_and_what_was_made_of_it_may_not_be_damaged(folder: Path) -> None:
    def opened(path: str, fraction: float = 0.1) -> int:
        data = settings.DataConfig(path=path, validation_fraction=fraction)
        return open_corpus(Config(model=MODEL, data=data)).windows.tokens

    tokens, shard = opened("book.txt"), Path("runs/run/data/train.bin")
    made = shard.stat().st_mtime_ns
    Path("texts").mkdir()
    Path("book.txt").rename("texts/novel.txt")
    assert opened("texts/novel.txt") == opened(str(Path("texts/novel.txt").absolute())) == tokens
    assert shard.stat().st_mtime_ns == made
    with pytest.raises(GPT2JaxError, match=r"^data\.validation_fraction: 0\.2: runs/run/data was made with 0\.1; give"):
        opened("texts/novel.txt", 0.2)
    Path("texts/other.txt").write_text(TEXT + ".")
    with pytest.raises(GPT2JaxError, match=r"^data\.path: texts/other\.txt: has changed since .*, or is another text"):
        opened("texts/other.txt")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(GPT2JaxError, match=r"^runs/run/data: train: .* tokens: should be .* by its meta\.json"):
        opened("texts/novel.txt")
    shard.write_bytes(whole)
    assert opened("texts/novel.txt") == tokens


def test_settings_that_are_none_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "book.txt", "--init-from", "gpt2"]) == 2
    assert "gpt2jax: book.txt: " in capsys.readouterr().err


def test_lora_needs_weights(folder: Path) -> None:
    Path("shards.txt").write_text(TEXT)
    config = Config(model=MODEL, lora=LoraConfig(rank=2), data=settings.DataConfig(path="shards.txt"))
    assert open_corpus(config).held_out is not None
    with pytest.raises(GPT2JaxError, match=r"lora\.rank: 2: adapts weights that are there"):
        train(config)
