"""Kill a training run again and again, and see whether it ends as one that was never killed.

    python benchmarks/kill_test.py --kills 50
    python benchmarks/kill_test.py --kind lora --kills 50

A tiny run (Muon, dropout, two micro-batches, epochs of a few steps) is started, killed with SIGKILL at a moment drawn
from a seed, and started again, until it has been killed so often; then it is left to end. Moments are of five kinds:
while it starts; at any time after its first step; while a checkpoint is written; while an old one is removed; and right
after the step in which an epoch ends. Its end is compared with that of a run never killed: every leaf of the state
(parameters, optimizer, guard, step), every number in metrics.jsonl but those of the clock, and every sample, bit for
bit, and the names of the files in its folder: nothing half done may be left. Exit status 1 if anything differs.

With --kind lora the run learns adapters on the weights of another one, which it saves itself (RUN/base), of a text that
it prepares itself (RUN/data), with patience, so that it samples its best checkpoint at the end.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gpt2jax import checkpoint, parameters
from gpt2jax import config as settings
from gpt2jax.data.prepare import prepare
from gpt2jax.digest import paths
from gpt2jax.train.runlog import read_rows
from gpt2jax.train.start import learned_state
from gpt2jax.train.step import abstract_state, make_place

CLOCK = ("train_seconds", "step_seconds", "tokens_per_second", "mfu")
MOMENTS = ("any", "start", "write", "removal", "epoch")
# Steps between checkpoints, of which the last two, the best and every fifth are kept.
INTERVAL = 5
SETTINGS = """
model: {{n_vocab: 257, n_ctx: 16, n_embd: 32, n_head: 4, n_layer: 2, dropout: 0.1}}
data: {{path: {data}}}
optimizer: {{name: muon, learning_rate: 1.0e-2, min_learning_rate: 1.0e-3, warmup_steps: 2}}
{lora}training: {{steps: {steps}, {more}batch_size: 8, micro_batches: 2, log_interval: 1, eval_interval: {interval},
  eval_batches: 1, checkpoint_interval: {interval}, keep_every: {every}, sample_interval: {interval}}}
sampling: {{max_new_tokens: 8, num_samples: 1}}
"""


def prepare_folder(folder: Path, steps: int, kind: str = "fresh") -> None:
    """Data of an epoch of a few steps, and the settings of a run of ``steps``; of adapters, the weights too."""
    text = folder / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}.\n" for number in range(60)))
    prepare([str(text)], folder / "shards", tokenizer="bytes", split="tail")
    given = {"steps": steps, "interval": INTERVAL, "every": 5 * INTERVAL, "data": "shards", "lora": "", "more": ""}
    (folder / "settings.yaml").write_text(SETTINGS.format(**given))
    if kind == "lora":
        (folder / "settings.yaml").write_text(SETTINGS.format(**given | {"steps": INTERVAL}))
        Run(folder, "weights").finish()
        given |= {"data": "text.txt", "lora": "lora: {rank: 2}\n", "more": "init_from: weights, patience: 1000, "}
        (folder / "settings.yaml").write_text(SETTINGS.format(**given))


class Run:
    """A run's folder, and the processes that train in it one after the other."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.dir = folder, name, folder / name
        self.checkpoints, self.log = self.dir / "checkpoints", folder / f"{name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gpt2jax", "train", "settings.yaml", "--training.run-dir", self.name]
        # Programs are kept from start to start; and a kill may meet the writing of one.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"), "JAX_PLATFORMS": "cpu"}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=self.folder, env=os.environ | cache, stdout=log, stderr=log)

    def finish(self) -> None:
        status = self.start().wait()
        if status:
            raise SystemExit(f"{self.name} ended with status {status}:\n{self.says()[-3000:]}")

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def step(self) -> int:
        """The step that this start has told of last; 0 before its first."""
        return max((int(number) for number in re.findall(r"^step +(\d+)", self.says(), re.MULTILINE)), default=0)

    def epoch_steps(self) -> float:
        found = re.search(r"; (\d+) training", self.says().replace(",", ""))
        return int(found[1]) / 16 / 8 if found else 1.0

    def period(self) -> float:
        """Seconds between the last two checkpoints of a run that has ended: nothing is compiled in them."""
        before, last = sorted(path.stat().st_mtime for path in self.checkpoints.iterdir())[-2:]
        return last - before

    def writes(self) -> bool:
        return any(self.checkpoints.glob("*.orbax-checkpoint-tmp*"))

    def removes(self) -> bool:
        return (self.checkpoints / "deleted").exists()


def kill_once(run: Run, moment: str, rng: random.Random, times: dict[str, float]) -> str | None:
    """Start the run and kill it at such a moment; where it stood, or None when it had ended before.

    Args:
        times: seconds of a start, which are measured here, and of a checkpoint's interval.
    """
    began, process = time.monotonic(), run.start()

    def wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end and not until():
            time.sleep(0.0005)

    try:
        if moment == "start":
            wait(lambda: False, rng.uniform(0.0, times["startup"]))
        else:
            wait(lambda: run.step() > 0)
            times["startup"] = time.monotonic() - began
        if moment == "any":
            wait(lambda: False, rng.uniform(0.0, 2 * times["period"]))
        elif moment == "write":
            wait(run.writes)
            wait(lambda: False, rng.uniform(0.0, 0.15))
        elif moment == "removal":
            wait(run.removes)
        elif moment == "epoch":
            length = run.epoch_steps()
            end = int((int(run.step() / length) + 1) * length) + 1
            wait(lambda: run.step() >= end)
        ended = process.poll() is not None
    finally:
        process.kill()
        process.wait()
    if ended:
        if process.returncode:
            raise SystemExit(f"a start failed by itself:\n{run.says()[-3000:]}")
        return None
    found = [what for what, there in (("write", run.writes()), ("removal", run.removes())) if there]
    step = f"after step {run.step()}" if run.step() else "before its first step"
    return step + (f", in the midst of a checkpoint's {' and '.join(found)}" if found else "")


def state_of(run_dir: Path) -> dict[str, np.ndarray]:
    """Every leaf of the newest checkpoint's state, and of the weights that its adapters belong to."""
    config = settings.load(run_dir / "config.yaml")
    abstract = learned_state(abstract_state(config, make_place(config, jax.devices()[:1])))
    state = {path: np.asarray(leaf) for path, leaf in paths(checkpoint.restore_state(run_dir, abstract)).items()}
    if config.lora.rank:
        state |= {f"base/{row.path}": checkpoint.restore_array(run_dir / "base", row.path) for row in parameters.TABLE}
    return state


def numbers(run_dir: Path) -> list[dict[str, float]]:
    """The rows of the log, without what the clock said."""
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in read_rows(run_dir)]


def names(run_dir: Path) -> set[str]:
    """What is in the run's folder, down to a checkpoint's parts; TensorBoard has a file for every start."""
    folders = [run_dir, *(run_dir / name for name in ("checkpoints", "base", "data"))]
    folders += [*(run_dir / "checkpoints").iterdir(), *(run_dir / "base").glob("*")]
    return {str(path.relative_to(run_dir)) for folder in folders if folder.is_dir() for path in folder.iterdir()}


def differences(whole: Path, killed: Path) -> list[str]:
    """What the end of one run has that the other's has not, bit for bit."""
    left, right = state_of(whole), state_of(killed)
    faults = [f"{path} differs" for path in left.keys() | right.keys() if not _same(left.get(path), right.get(path))]
    if numbers(whole) != numbers(killed):
        faults.append("metrics.jsonl differs")
    if (whole / "samples.txt").read_bytes() != (killed / "samples.txt").read_bytes():
        faults.append("samples.txt differs")
    faults += [f"{name} is left behind" for name in sorted(names(killed) - names(whole))]
    return faults + [f"{name} is missing" for name in sorted(names(whole) - names(killed))]


def _same(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    if left is None or right is None:
        return False
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["fresh", "lora"], default="fresh", help="what is learned (default: fresh)")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="an empty folder to work in, which stays; by default a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # A start that is killed gets one or two checkpoints further, so the run does not end too soon.
        steps = 2 * INTERVAL * (given.kills + 2)
        prepare_folder(folder, steps, given.kind)
        whole, killed = Run(folder, "whole"), Run(folder, "killed")
        whole.finish()
        period = whole.period()
        print(
            f"never killed: {steps} steps, an epoch of {whole.epoch_steps():.1f}, a checkpoint every {INTERVAL}"
            f" ({period:.2f} s)",
            flush=True,
        )

        rng = random.Random(given.seed)
        count, met, times = 0, {"write": 0, "removal": 0}, {"startup": 5.0, "period": period}
        while count < given.kills:
            moment = MOMENTS[count % len(MOMENTS)]
            where = kill_once(killed, moment, rng, times)
            if where is None:
                break
            count += 1
            met = {part: number + (part in where) for part, number in met.items()}
            print(f"kill {count:>3} ({moment}): {where}", flush=True)
        killed.finish()
        faults = differences(whole.dir, killed.dir)
        for fault in faults:
            print(fault)
        print(
            f"{count} kills, {met['write']} while a checkpoint was written, {met['removal']} while one was removed:"
            f" {'the end DIFFERS' if faults else 'the end is bitwise that of the run never killed, nothing is left'}"
        )
    return 1 if faults or count < given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
