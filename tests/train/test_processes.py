"""Runs of several real processes: the numbers of one process, one log, an end that all of them come to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from gpt2jax import checkpoint, parameters
from gpt2jax.cli import main
from gpt2jax.config import ModelConfig
from gpt2jax.data.prepare import prepare
from gpt2jax.train.runlog import read_rows

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(n_vocab=257, n_ctx=16, n_embd=32, n_head=4, n_layer=2, dropout=0.1)
SETTINGS = """
model: {n_vocab: 257, n_ctx: 16, n_embd: 32, n_head: 4, n_layer: 2, dropout: 0.1}
mesh: {data: 2, fsdp: 2, tensor: 2}
data: {path: shards}
optimizer: {learning_rate: 1.0e-2, min_learning_rate: 1.0e-3, warmup_steps: 2, decay_steps: 8}
training: {steps: 8, batch_size: 8, micro_batches: 2, log_interval: 1, eval_interval: 4, eval_batches: 1,
  checkpoint_interval: 4, run_dir: run}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(400)))
    prepare([str(folder / "text.txt")], folder / "shards", tokenizer="bytes", split="tail")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def environment() -> dict[str, str]:
    # Where the tests' programs are kept; and the package as it is here.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax-tests")}
    return os.environ | cache | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(*options: str, devices: int) -> list[str]:
    train = [sys.executable, "-m", "gpt2jax", "train", "settings.yaml", "--mesh.cpu-devices", str(devices)]
    return [*train, *options]


def launch(folder: Path, count: int, *options: str) -> subprocess.CompletedProcess[str]:
    local = [str(ROOT / "launch" / "local.sh"), str(count), *command(*options, devices=8 // count)]
    done = subprocess.run(
        local, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done


def params_of(folder: Path, run: str, step: int) -> list[np.ndarray]:
    where = folder / run / "checkpoints" / str(step)
    return [checkpoint.restore_array(where, row.path) for row in parameters.TABLE]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[np.ndarray]:
    """The parameters after 8 steps of one process with 8 devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "settings.yaml", "--training.run-dir", "alone"]) == 0
    return params_of(folder, "alone", 8)


def test_two_processes_train_as_one_and_four_go_on(folder: Path, alone: list[np.ndarray]) -> None:
    """Bitwise, on the same mesh; the checkpoint of two restored by four and by one."""
    done = launch(folder, 2, "--training.run-dir", "two", "--training.steps", "4")
    assert "2 processes (environment), 8 devices, 4 on each" in done.stderr
    assert done.stdout.count("step      4/4") == 1
    wanted = read_rows(folder / "alone")
    assert [row["loss"] for row in read_rows(folder / "two") if "loss" in row] == [
        row["loss"] for row in wanted if "loss" in row and row["step"] <= 4
    ]
    assert same(params_of(folder, "two", 4), params_of(folder, "alone", 4))
    subprocess.run(["cp", "-r", "two", "one"], cwd=folder, check=True)

    launch(folder, 4, "--training.run-dir", "two")
    assert same(params_of(folder, "two", 8), alone)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "settings.yaml", "--training.run-dir", "one"]) == 0
    assert same(params_of(folder, "one", 8), alone)
    assert not same(alone, params_of(folder, "alone", 4))
    for run in ("two", "one"):
        rows = read_rows(folder / run)
        assert [(row["step"], row.get("loss")) for row in rows] == [(row["step"], row.get("loss")) for row in wanted]
        assert {path.name for path in (folder / run).iterdir()} >= {"config.yaml", "loss.png", "report.md"}


def start(folder: Path, port: int, *options: str) -> list[subprocess.Popen[str]]:
    processes = []
    for process in range(2):
        cluster = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
        log = (folder / f"{options[1]}.{process}.log").open("w")
        processes.append(
            subprocess.Popen(
                command(*options, "--training.steps", "100000", "--optimizer.decay-steps", "100000", devices=4),
                cwd=folder,
                env=environment() | cluster | {"JAX_PROCESS_ID": str(process)},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    # Until some steps are done and a checkpoint is there.
    deadline = time.monotonic() + 120
    while not (folder / options[1] / "checkpoints" / "4" / "state").exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), (folder / f"{options[1]}.0.log").read_text()
        time.sleep(0.2)
    return processes


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sigterm_to_one_stops_both_with_one_checkpoint(folder: Path) -> None:
    processes = start(folder, free_port(), "--training.run-dir", "term")
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=90) for process in processes] == [0, 0]
    log = (folder / "term.0.log").read_text()
    assert log.count("by SIGTERM; resume with: gpt2jax train --resume term") == 1
    assert "SIGTERM; resume" not in (folder / "term.1.log").read_text()
    last = max(int(path.name) for path in (folder / "term" / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"stopped at step {last} by" in log


def test_when_one_is_killed_the_other_ends_and_says_so(folder: Path) -> None:
    for killed in (1, 0):
        processes = start(folder, free_port(), "--training.run-dir", f"kill{killed}")
        processes[killed].kill()
        began = time.monotonic()
        assert processes[1 - killed].wait(timeout=90) not in (0, None)
        assert time.monotonic() - began < 60
        log = (folder / f"kill{killed}.{1 - killed}.log").read_text()
        assert "another process of this run has ended or cannot be reached" in log or "coordination service" in log
    # What is there is whole, and goes on.
    restarted = folder / "kill1"
    steps = sorted(int(path.name) for path in (restarted / "checkpoints").iterdir() if path.name.isdecimal())
    assert steps
    assert jax.tree.leaves(params_of(folder, "kill1", steps[-1]))
