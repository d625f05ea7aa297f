"""A run and its checkpoints, from the command line: killed, damaged, out of room, of other settings."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2jax.train.runlog import read_rows
from tests.helpers import RUNS_CACHE

ROOT = Path(__file__).parents[2]
CACHE = RUNS_CACHE | {"JAX_PLATFORMS": "cpu"}
KILL_TEST = runpy.run_path(str(ROOT / "benchmarks" / "kill_test.py"))


def train(folder: Path, *options: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """``gpt2jax train`` in ``folder``; ``limit`` is the size that a file of it can have."""
    env = os.environ | CACHE | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gpt2jax", "train", "settings.yaml", *options]
    if limit is not None:
        code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)"
        command = [sys.executable, "-c", f"{code}; os.execv(sys.argv[2], sys.argv[2:])", str(limit), *command]
        env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # Its files would be too large as well.
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps, with checkpoints of 5 and 10; and one of 20, never stopped."""
    folder = tmp_path_factory.mktemp("runs")
    KILL_TEST["prepare_folder"](folder, 20)
    for name, steps in (("run", 10), ("whole", 20)):
        done = train(folder, "--training.run-dir", name, "--training.steps", str(steps), *DECAY)
        assert done.returncode == 0, done.stderr
    return folder


DECAY = ("--optimizer.decay-steps", "20")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", *map(str, folder.iterdir()), str(tmp_path)], check=True)
    return tmp_path


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """The short form of benchmarks/kill_test.py: one kill of each of its kinds."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kill_test.py"), "--kills", "5", "--folder", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills" in done.stdout
    assert "the end is bitwise that of the run never killed, nothing is left" in done.stdout
    # Twins: the comparison sees a number, a row and a file that are others.
    differences: Callable[[Path, Path], list[str]] = KILL_TEST["differences"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (killed / ".report.md.0123abcd.tmp").write_text("")
    assert differences(whole, killed) == [".report.md.0123abcd.tmp is left behind"]
    last = max(int(child.name) for child in (killed / "checkpoints").iterdir())
    (killed / "checkpoints" / str(last)).rename(tmp_path / "away")
    faults = differences(whole, killed)
    assert {"step differs", "params/wte differs", f"checkpoints/{last} is missing"} <= set(faults)
    lines = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert "metrics.jsonl differs" in differences(whole, killed)
    assert "samples.txt differs" not in faults
    (killed / "samples.txt").write_text((killed / "samples.txt").read_text()[:-2])
    assert "samples.txt differs" in differences(whole, killed)


def test_damage_is_told_in_a_line_and_the_run_ends_bitwise_as_without(copy: Path) -> None:
    for data in (copy / "run/checkpoints/10/state").rglob("d/*"):  # Which of them holds which array is up to chance.
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    shown = subprocess.run(
        [sys.executable, "-m", "gpt2jax", "generate", "--model", "run", "1", "--max-new-tokens", "1"],
        cwd=copy,
        env=os.environ | CACHE | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert re.fullmatch(r"gpt2jax: .*/run/checkpoints/10: the checkpoint cannot be read \(.*\).*\n", shown.stderr)
    done = train(copy, "--training.run-dir", "run", *DECAY)
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert re.fullmatch(
        r"gpt2jax: warning: .*/checkpoints/10: the checkpoint cannot be read .*: going on from step 5; it is now"
        r" checkpoints/10\.damaged",
        line,
    )
    assert "resumed run at step 5 of 20" in done.stdout
    shutil.rmtree(copy / "run/checkpoints/10.damaged")
    assert KILL_TEST["differences"](copy / "whole", copy / "run") == []


def test_a_full_disk_ends_the_run_at_the_next_step_and_costs_no_checkpoint(copy: Path) -> None:
    """With a limit on the size of files, which the system enforces as it does the disk's: below that of the token table
    (45 KB when it is compressed), so that no way of putting arrays together into files goes through."""
    options = ("--training.run-dir", "run", *DECAY, "--training.eval-interval", "500")
    slow = ("--training.steps", "4000", "--training.checkpoint-interval", "500", "--training.keep-every", "0")
    quiet = ("--training.log-interval", "100", "--training.sample-interval", "0")
    done = train(copy, *options, *slow, *quiet, limit=40_000)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(
        r"gpt2jax: .*/run/checkpoints: the checkpoint of step 500 cannot be written \(.*\); the last whole one is of"
        r" step 10\n",
        done.stderr,
    ), done.stderr
    assert "run/loss.png: cannot be written (File too large)" in done.stdout  # Which ends no run.
    # It did not go on to the next checkpoint, nor far.
    assert max(row["step"] for row in read_rows(copy / "run")) < 1000
    assert {child.name for child in (copy / "run" / "checkpoints").iterdir()} == {"5", "10"}
    assert train(copy, "--training.run-dir", "run", *DECAY).returncode == 0
    assert KILL_TEST["differences"](copy / "whole", copy / "run") == []


def test_other_settings_are_refused_or_told(copy: Path) -> None:
    refused = train(copy, "--training.run-dir", "run", *DECAY, "--optimizer.clip-norm", "0")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert "checkpoints/10: a checkpoint of another model, or of other settings of the optimizer: " in line
    assert {child.name for child in (copy / "run" / "checkpoints").iterdir()} == {"5", "10"}
    told = train(copy, "--training.run-dir", "run", *DECAY, "--training.seed", "1", "--training.log-interval", "2")
    assert told.returncode == 0, told.stderr
    line = "going on with other settings than before: training.seed 0 -> 1, training.log_interval 1 -> 2"
    assert line in told.stdout.splitlines()
    assert train(copy, "--training.run-dir", "run", *DECAY, "--training.keep-every", "7").stderr == (
        "gpt2jax: training.keep_every: 7: should be a multiple of training.checkpoint_interval (5)\n"
    )
