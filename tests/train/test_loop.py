"""A run from its settings to its folder: exact resume, what it writes, what it refuses."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax import config as settings
from gpt2jax.config import (
    Config,
    DataConfig,
    DistributedConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train import loop
from gpt2jax.train.loop import Result, train
from gpt2jax.train.runlog import RunLog, read_rows


def make(corpus: str, run_dir: Path, *, model: dict[str, Any] | None = None, **training: Any) -> Config:
    given: dict[str, Any] = {
        "steps": 8,
        "batch_size": 8,
        "micro_batches": 2,
        "log_interval": 1,
        "eval_interval": 4,
        "eval_batches": 1,
    }
    return Config(
        model=ModelConfig(**{"n_vocab": 257, "n_ctx": 16, "n_embd": 32, "n_head": 4, "n_layer": 2} | (model or {})),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2, max_whole=0.1),
        data=DataConfig(path=corpus),
        optimizer=OptimizerConfig(learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=2, decay_steps=8),
        training=TrainingConfig(**given | {"checkpoint_interval": 4, "run_dir": str(run_dir)} | training),
    )


def same_params(left: Result, right: Result) -> bool:
    pairs = zip(jax.tree.leaves(left.params), jax.tree.leaves(right.params), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def losses(run_dir: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_rows(run_dir) if "loss" in row]


def test_a_run_stopped_halfway_ends_bitwise_as_one_that_was_not(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropout = {"dropout": 0.1}
    whole = train(make(corpus, tmp_path / "whole", model=dropout))
    train(make(corpus, tmp_path / "halves", model=dropout, steps=4))
    halves = train(make(corpus, tmp_path / "halves", model=dropout))
    assert "resumed" in capsys.readouterr().out
    assert same_params(whole, halves)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    assert whole.validation_loss == halves.validation_loss
    # The comparison can fail: another seed, or a start from nothing at step 4, ends elsewhere.
    assert not same_params(whole, train(make(corpus, tmp_path / "other", model=dropout, seed=1)))


def test_a_signal_saves_and_the_run_goes_on_bitwise_from_there(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(make(corpus, tmp_path / "whole"))
    write = RunLog.write

    def interrupt(self: RunLog, row: dict[str, float], text: str) -> None:
        write(self, row, text)
        if row["step"] == 3 and "loss" in row:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop.RunLog, "write", interrupt)
        stopped = train(make(corpus, tmp_path / "stopped"))
    assert (stopped.stopped_by, stopped.step) == (signal.SIGTERM, 3)
    resumed = train(make(corpus, tmp_path / "stopped"))
    assert (resumed.stopped_by, resumed.step) == (None, 8)
    assert same_params(whole, resumed)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_a_signal_while_samples_are_written_stops_after_the_next_step_with_a_checkpoint(
    corpus: str, tmp_path: Path
) -> None:
    def draw(*_: Any) -> tuple[str, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return "many", "one"

    config = make(corpus, tmp_path / "run", sample_interval=2, checkpoint_interval=8, eval_interval=8)
    stopped = train(config, draw=draw)
    assert (stopped.stopped_by, stopped.step) == (signal.SIGTERM, 3)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]


def test_a_signal_at_the_very_end_is_no_stop(corpus: str, tmp_path: Path) -> None:
    def draw(*_: Any) -> tuple[str, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return "many", "one"

    assert train(make(corpus, tmp_path / "run", steps=2), draw=draw).stopped_by is None


def test_every_process_knows_the_rows_of_before(tmp_path: Path) -> None:
    """When patience ends is a function of them."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    silent = RunLog(tmp_path, 1, 10, silent=True)
    assert silent.rows == [{"step": 1, "loss": 2.0}]
    assert len(read_rows(tmp_path)) == 2  # It wrote nothing.


def test_which_process_this_is_is_not_recorded(corpus: str, tmp_path: Path) -> None:
    """A run that one process of several wrote goes on in any number of them."""
    one = DistributedConfig(coordinator="127.0.0.1:9", processes=2, process_id=1)
    train(dataclasses.replace(make(corpus, tmp_path / "run", steps=1), distributed=one))
    recorded = settings.load(tmp_path / "run" / "config.yaml")
    assert recorded.distributed == DistributedConfig() != one
    assert recorded.training.steps == 1


def test_a_step_is_compiled_once_in_a_run(corpus: str, tmp_path: Path, compiled: list[str]) -> None:
    train(make(corpus, tmp_path / "run"))
    assert compiled.count("jit(step)") == 1
    assert compiled.count("jit(evaluate)") == 1


def test_what_would_be_traced_again_in_a_run_ends_it(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    """A batch of another shape or type, where none is due, must not pass as a slow step."""
    of = loop.device_batches
    for change in (lambda batch: batch[:1], lambda batch: batch.astype(np.int16)):

        def changed(*args: Any, change: Any = change) -> Any:
            for number, windows_ABT1 in enumerate(of(*args)):
                yield change(windows_ABT1) if number == 5 else windows_ABT1

        monkeypatch.setattr(loop, "device_batches", changed)
        compiled.clear()
        run = tmp_path / str(change)
        with pytest.raises(TypeError, match="differ from the types for which this computation was compiled"):
            train(make(corpus, run))
        assert compiled.count("jit(step)") == 1
        assert [row["step"] for row in read_rows(run) if "loss" in row][-1] == 5


def test_the_run_folder_holds_what_was_promised(corpus: str, tmp_path: Path) -> None:
    config = make(corpus, tmp_path / "run", device_watts=100.0)
    train(config, "gpt2jax train x.yaml")
    folder = tmp_path / "run"
    assert settings.load(folder / "config.yaml") == config
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())
    assert {child.name for child in (folder / "checkpoints").iterdir()} == {"4", "8"}
    report = (folder / "report.md").read_text()
    for part in ("`gpt2jax train x.yaml`", "8 of 8", "kWh", "unknown: no peak is listed", "bits per byte", "jax "):
        assert part in report
    assert not [child for child in folder.iterdir() if child.suffix == ".partial"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))
    assert [row["step"] for row in rows if "validation_loss" in row] == [4, 8]


def test_training_lowers_the_validation_loss(corpus: str, tmp_path: Path) -> None:
    result = train(make(corpus, tmp_path / "run", steps=40, log_interval=20, eval_interval=20, checkpoint_interval=40))
    rows = [row["validation_loss"] for row in read_rows(tmp_path / "run") if "validation_loss" in row]
    assert result.validation_loss == rows[-1] < rows[0] < np.log(257)
    assert result.bits_per_byte == pytest.approx(result.validation_loss / np.log(2), rel=0.01)


def test_a_finished_run_trains_nothing_more(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(make(corpus, tmp_path / "run", steps=4))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = train(make(corpus, tmp_path / "run", steps=4))
    assert "nothing was trained" in capsys.readouterr().out
    assert same_params(first, again)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_the_state_of_another_optimizer_is_refused(corpus: str, tmp_path: Path) -> None:
    """That each goes on bitwise from its own is in test_exactness.py."""
    run = tmp_path / "run"
    lion = dataclasses.replace(make(corpus, run, steps=1, freeze=("wpe",)), optimizer=OptimizerConfig(name="lion"))
    train(lion)
    with pytest.raises(GPT2JaxError, match=r"optimizer\.name: adamw: the checkpoints in .* have lion; give another"):
        train(make(corpus, run, freeze=("wpe",)))
    with pytest.raises(GPT2JaxError, match=r"training\.freeze: \['wte'\]: the checkpoints in .* have \['wpe'\]"):
        train(dataclasses.replace(lion, training=make(corpus, run, freeze=("wte",)).training))


def test_the_batch_doubles_and_a_run_stopped_beside_a_doubling_ends_bitwise(
    corpus: str, tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, of = [], loop.device_batches

    def seen(*args: Any) -> Any:
        for windows_ABT1 in of(*args):
            batches.append(np.asarray(windows_ABT1))
            yield windows_ABT1

    monkeypatch.setattr(loop, "device_batches", seen)
    ramp: dict[str, Any] = {"batch_size": 32, "micro_batches": 4, "ramp": (2, 5), "model": {"dropout": 0.1}}
    whole = train(make(corpus, tmp_path / "whole", **ramp))
    assert [len(windows_ABT1) for windows_ABT1 in batches] == [1, 1, 2, 2, 2, 4, 4, 4]
    assert compiled.count("jit(step)") == 3
    # Not a row is left out or comes twice: together they are the stream of a run of one micro-batch a step.
    stream_ABT1, batches[:] = np.concatenate(batches), []
    train(make(corpus, tmp_path / "flat", steps=20, eval_interval=100, checkpoint_interval=100))
    flat_ABT1 = np.concatenate(batches)
    assert np.array_equal(stream_ABT1.reshape(-1, 17), flat_ABT1.reshape(-1, 17)[: 20 * 8])
    report = (tmp_path / "whole" / "report.md").read_text()
    assert f"| training tokens | {20 * 8 * 16:,} |" in report
    for stop in (2, 5):
        folder = tmp_path / f"stopped at {stop}"
        train(make(corpus, folder, steps=stop, **ramp))
        assert same_params(whole, train(make(corpus, folder, **ramp)))
    # Twin: the doublings elsewhere.
    assert not same_params(whole, train(make(corpus, tmp_path / "other", **ramp | {"ramp": (2, 6)})))


def test_what_does_not_fit_is_refused(corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make(corpus, run, steps=4))
    with pytest.raises(GPT2JaxError, match=r"model\.n_layer: 3: the checkpoints in .* have 2"):
        train(make(corpus, run, model={"n_layer": 3}))
    with pytest.raises(GPT2JaxError, match=r"training\.steps: 2: .* step 4"):
        train(make(corpus, run, steps=2))
    with pytest.raises(GPT2JaxError, match=r"model\.n_vocab: 300: should be 257"):
        train(make(corpus, tmp_path / "b", model={"n_vocab": 300}))
    with pytest.raises(GPT2JaxError, match="batch: 2: should be a multiple of the mesh's data"):
        train(make(corpus, tmp_path / "c", batch_size=4))
    config = make(corpus, tmp_path / "d")
    with pytest.raises(GPT2JaxError, match=r"mesh: .* multiply to the number of devices, which is 8"):
        train(dataclasses.replace(config, mesh=MeshConfig(data=3)))
    (tmp_path / "file").write_text("")
    with pytest.raises(GPT2JaxError, match=r"training\.run_dir"):
        train(make(corpus, tmp_path / "file" / "run"))


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(corpus: str, tmp_path: Path) -> None:
    config = make(corpus, tmp_path / "run", log_interval=100)
    optimizer = OptimizerConfig(learning_rate=1e30, min_learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
    with pytest.raises(GPT2JaxError, match=r"validation_loss is nan.*no checkpoint yet"):
        train(dataclasses.replace(config, optimizer=optimizer))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
