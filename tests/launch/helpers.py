"""Launchers run for real where no cluster is: programs in the place of a scheduler's, that note their arguments."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from gpt2jax.data.prepare import prepare
from tests.helpers import RUNS_CACHE

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# The shapes of tests/train/test_processes.py: where one process of pytest-xdist runs both, they share programs.
SETTINGS = """
model: {n_vocab: 257, n_ctx: 16, n_embd: 32, n_head: 4, n_layer: 2, dropout: 0.1}
mesh: {data: 2, fsdp: 1, tensor: 2, max_whole: 0.1, cpu_devices: 2}
data: {path: shards}
optimizer: {learning_rate: 1.0e-2, min_learning_rate: 1.0e-3, warmup_steps: 2, decay_steps: 8}
training: {steps: 4, batch_size: 8, micro_batches: 2, log_interval: 1, eval_interval: 4, eval_batches: 1,
  checkpoint_interval: 4, run_dir: run}
"""
TRAIN = ["gpt2jax", "train", "settings.yaml"]
ENDLESS = ["--training.steps", "100000", "--optimizer.decay-steps", "100000"]

# Variables of whatever cluster the tests themselves run on, and of the launchers' own settings.
FOREIGN = (
    "SLURM_",
    "JAX_",
    "TPU_",
    "MEGASCALE_",
    "SKYPILOT_",
    "KUBERNETES_",
    "JOB_COMPLETION_",
    "NAME",
    "ZONE",
    "BUCKET",
)

NOTE = """#!{python}
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.path.join("{folder}", "calls.jsonl"), "a") as calls:
    calls.write(json.dumps([name, *arguments]) + chr(10))
"""


def prepare_folder(folder: Path) -> Path:
    """A folder to work in, with data and settings for a model that trains in no time."""
    (folder / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(400)))
    prepare([str(folder / "text.txt")], folder / "shards", tokenizer="bytes", split="tail")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


@dataclasses.dataclass(frozen=True)
class Imitation:
    """Programs of a scheduler that are found before the real ones, wherever those are installed."""

    folder: Path

    def add(self, name: str, code: str = "") -> None:
        """A program that notes its arguments, and then does ``code``, in Python."""
        path = self.folder / name
        path.write_text(NOTE.format(python=sys.executable, folder=self.folder) + code)
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of this program so far."""
        log = self.folder / "calls.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [row[1:] for row in rows if row[0] == name]

    def environment(self, **variables: str) -> dict[str, str]:
        """With this gpt2jax and these programs on the PATH, and the tests' compiled programs."""
        # Nothing of the real machine's clusters.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return kept | RUNS_CACHE | {"PATH": path, "PYTHONPATH": str(ROOT)} | variables


def run_together(commands: list[tuple[list[str], dict[str, str]]], folder: Path) -> list[str]:
    """Commands with their environments, all at once; what each of them printed. They must succeed."""
    with contextlib.ExitStack() as stack:
        workers = []
        for command, environment in commands:
            worker = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
        printed = [worker.communicate(timeout=240)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), "".join(printed)
    return printed


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
