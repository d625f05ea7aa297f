"""Runs of several real processes: the numbers of one process, one log, an end that all of them come to."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt2jax import checkpoint, parameters
from gpt2jax.data.prepare import prepare
from gpt2jax.record import Leaf
from gpt2jax.train.runlog import read_rows
from gpt2jax.weights.convert import convert
from gpt2jax.weights.sources import open_weights
from tests.helpers import RUNS_CACHE, free_port

ROOT = Path(__file__).parents[2]
SETTINGS = """
model: {n_vocab: 257, n_ctx: 16, n_embd: 32, n_head: 4, n_layer: 2, dropout: 0.1}
mesh: {data: 2, fsdp: 1, tensor: 2, max_whole: 0.1}
data: {path: shards}
optimizer: {name: muon, learning_rate: 1.0e-2, min_learning_rate: 1.0e-3, warmup_steps: 2, decay_steps: 8}
training: {steps: 8, batch_size: 8, micro_batches: 2, log_interval: 1, eval_interval: 4, eval_batches: 1,
  checkpoint_interval: 4, sample_interval: 4, run_dir: run}
sampling: {max_new_tokens: 6, num_samples: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(400)))
    prepare([str(folder / "text.txt")], folder / "shards", tokenizer="bytes", split="tail")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def environment() -> dict[str, str]:
    return os.environ | RUNS_CACHE | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(*options: str, devices: int) -> list[str]:
    train = [sys.executable, "-m", "gpt2jax", "train", "settings.yaml", "--mesh.cpu-devices", str(devices)]
    return [*train, *options]


def launch(folder: Path, count: int, *options: str) -> subprocess.CompletedProcess[str]:
    local = [str(ROOT / "launch" / "local.sh"), str(count), *command(*options, devices=4 // count)]
    done = subprocess.run(
        local, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done


def params_of(folder: Path, run: str, step: int) -> list[np.ndarray]:
    where = folder / run / "checkpoints" / str(step)
    return [checkpoint.restore_array(where, row.path) for row in parameters.TABLE]


def leaves_of(folder: Path, run: str, step: int) -> dict[str, Leaf]:
    """Shape, dtype and digest of all of the state: the optimizer's and the guard's too."""
    leaves = checkpoint.read_meta(folder / run / "checkpoints" / str(step)).leaves
    assert leaves is not None
    return leaves


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[np.ndarray]:
    """The parameters after 8 steps of one process with 4 devices."""
    launch(folder, 1, "--training.run-dir", "alone")
    return params_of(folder, "alone", 8)


def test_two_processes_train_as_one_and_one_and_four_go_on(folder: Path, alone: list[np.ndarray]) -> None:
    """Bitwise, where no sum over devices has more than two terms, as on this mesh: Gloo adds more in another order."""
    done = launch(folder, 2, "--training.run-dir", "four", "--training.steps", "4")
    assert "2 processes (environment), 4 devices, 2 on each" in done.stderr
    assert done.stdout.count("step      4/4") == 1
    assert same(params_of(folder, "four", 4), params_of(folder, "alone", 4))
    shutil.copytree(folder / "four", folder / "one")
    for count, run in ((4, "four"), (1, "one")):
        launch(folder, count, "--training.run-dir", run)
        assert same(params_of(folder, run, 8), alone)
        assert leaves_of(folder, run, 8) == leaves_of(folder, "alone", 8)
        assert numbers(folder / run) == numbers(folder / "alone")
        assert {path.name for path in (folder / run).iterdir()} >= {"config.yaml", "loss.png", "report.md"}
        # Several processes write samples on one device, the one on its mesh: the same texts.
        samples = [(folder / name / "samples.txt").read_text() for name in (run, "alone")]
        assert samples[0] == samples[1]
        first, second = samples[0].split("######## step 8\n")
        assert first.removeprefix("######## step 4\n") != second
    # Twin: those four steps changed them.
    assert not same(params_of(folder, "alone", 4), alone)


def test_a_checkpoint_that_one_process_cannot_read_is_set_aside_by_both(folder: Path, alone: list[np.ndarray]) -> None:
    """Damage in the numbers comes to all of them alike; the other kind may stop one, and the others must not wait."""
    launch(folder, 2, "--training.run-dir", "damaged")
    for damage in ("numbers", "files"):
        step = folder / "damaged" / "checkpoints" / "8"
        if damage == "numbers":  # The record tells of another array.
            record = step / "meta" / "metadata"
            meta = checkpoint.read_meta(step)
            assert meta.leaves is not None
            wte = dataclasses.replace(meta.leaves["params/wte"], digest=meta.leaves["params/wte"].digest ^ 1)
            leaves = meta.leaves | {"params/wte": wte}
            record.write_text(json.dumps(dataclasses.replace(meta, leaves=leaves).to_json()))
        else:
            for path in (step / "state").rglob("*"):
                if path.is_file() and path.stat().st_size > 20_000:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        done = launch(folder, 2, "--training.run-dir", "damaged")
        assert done.stderr.count("going on from step 4; it is now checkpoints/8.damaged") == 1, done.stderr
        assert "resumed damaged at step 4 of 8" in done.stdout
        assert same(params_of(folder, "damaged", 8), alone)
    names = {path.name for path in (folder / "damaged" / "checkpoints").iterdir()}
    assert names == {"4", "8", "8.damaged", "8.damaged-2"}


def test_adapters_out_of_patience_end_alike_in_two_processes_and_in_one(folder: Path, alone: list[np.ndarray]) -> None:
    """The best is found, put over the base and sampled from by both; exported, it is the same to the bit."""
    options = ["--training.init-from", "alone", "--lora.rank", "2", "--optimizer.name", "adamw"]
    options += ["--training.patience", "2", "--training.eval-interval", "1", "--training.steps", "40"]
    options += ["--optimizer.learning-rate", "0.03", "--optimizer.decay-steps", "40"]
    best, files = set(), []
    for count in (2, 1):
        run = f"adapters{count}"
        done = launch(folder, count, "--training.run-dir", run, *options)
        assert done.stdout.count("stopped early at step") == 1
        found = re.search(rf"best: {run}/checkpoints/(\d+), which", done.stdout)
        assert found, done.stdout
        best.add(int(found[1]))
        convert(open_weights(folder / run / "checkpoints" / found[1]), folder / run / "export", "huggingface")
        files.append((folder / run / "export" / "model.safetensors").read_bytes())
    [step] = best
    assert files[0] == files[1]
    last = checkpoint.find(folder / "adapters2")[1]
    assert step < last < 40
    for number in (step, last):
        assert leaves_of(folder, "adapters2", number) == leaves_of(folder, "adapters1", number)
    assert numbers(folder / "adapters2") == numbers(folder / "adapters1")
    samples = [(folder / run / "samples.txt").read_text() for run in ("adapters2", "adapters1")]
    assert samples[0] == samples[1]
    assert f"######## step {step}, the best\n" in samples[0]
    # Twin: the last step's, and the base, are others.
    for other, name in (("adapters1", str(last)), ("alone", "8")):
        convert(open_weights(folder / other / "checkpoints" / name), folder / f"export{name}", "huggingface")
        assert (folder / f"export{name}" / "model.safetensors").read_bytes() != files[0]


# Without samples, for which programs are compiled: a process that compiles while the first one dies is ended by jax,
# with jax's own words.
SLOWLY = ["--optimizer.decay-steps", "100000", "--training.sample-interval", "0"]


@contextlib.contextmanager
def running(folder: Path, run: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of a run that does not end by itself, from its first checkpoint on."""
    cluster = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    endless = ["--training.run-dir", run, "--training.steps", "100000", *SLOWLY]
    with contextlib.ExitStack() as stack:
        processes = []
        for process in range(2):
            log = stack.enter_context((folder / f"{run}.{process}.log").open("w"))
            env = environment() | cluster | {"JAX_PROCESS_ID": str(process)}
            processes.append(
                stack.enter_context(
                    subprocess.Popen(
                        command(*endless, devices=2), cwd=folder, env=env, stdout=log, stderr=log, text=True
                    )
                )
            )
            stack.callback(processes[-1].kill)
        deadline = time.monotonic() + 120
        while not (folder / run / "checkpoints" / "4" / "state").exists() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), log_of(folder, run, 0)
            time.sleep(0.2)
        yield processes


def log_of(folder: Path, run: str, process: int) -> str:
    return (folder / f"{run}.{process}.log").read_text()


def test_sigterm_to_one_stops_both_with_one_checkpoint(folder: Path) -> None:
    with running(folder, "term") as processes:
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=90) for process in processes] == [0, 0]
    log = log_of(folder, "term", 0)
    assert log.count("by SIGTERM; resume with: gpt2jax train --resume term") == 1
    assert "SIGTERM; resume" not in log_of(folder, "term", 1)
    last = max(int(path.name) for path in (folder / "term" / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"stopped at step {last} by" in log


def kill_one(folder: Path, run: str, killed: int) -> int:
    """Kill one process of two, see the other end and say so, and return the step of the newest checkpoint."""
    with running(folder, run) as processes:
        processes[killed].kill()
        began = time.monotonic()
        assert processes[1 - killed].wait(timeout=90) != 0
        assert time.monotonic() - began < 60
    log = log_of(folder, run, 1 - killed)
    assert "another process of this run has ended or cannot be reached" in log, log[-2000:]
    return max(int(path.name) for path in (folder / run / "checkpoints").iterdir() if path.name.isdecimal())


def test_when_one_is_killed_the_other_ends_and_says_so(folder: Path) -> None:
    saved = kill_one(folder, "kill1", 1)
    # What is there is whole.
    assert all(np.isfinite(array).all() for array in params_of(folder, "kill1", saved))


def test_a_run_whose_first_process_was_killed_goes_on_bitwise_as_one_that_never_was(folder: Path) -> None:
    """The first process writes the log, and may have been writing it."""
    saved = kill_one(folder, "kill0", 0)
    steps = ["--training.steps", str(saved + 4), *SLOWLY]
    done = launch(folder, 2, "--training.run-dir", "kill0", *steps)
    assert f"resumed kill0 at step {saved} of {saved + 4}" in done.stdout
    launch(folder, 1, "--training.run-dir", "whole", *steps)
    assert same(params_of(folder, "kill0", saved + 4), params_of(folder, "whole", saved + 4))
    assert numbers(folder / "kill0") == numbers(folder / "whole")
    # Twin: the steps after the restart changed the parameters.
    assert not same(params_of(folder, "kill0", saved + 4), params_of(folder, "kill0", saved))


def numbers(run: Path) -> list[dict[str, float]]:
    """The rows of a run's log, without what the clock said."""
    clock = ("train_seconds", "step_seconds", "tokens_per_second")
    return [{name: value for name, value in row.items() if name not in clock} for row in read_rows(run)]
