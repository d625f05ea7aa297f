"""How much of a step's time in `gpt2jax train` is the device's: the loop against its compiled step alone.

    python benchmarks/host_share.py

One run of the quickstart's model and data. Every so many steps the loop is held and the same compiled program called
as often on the batch that is there, with no host work in between; then the loop goes on. What the loop adds (reading
and sending batches, metrics, logs, TensorBoard, signals, the checks of checkpoints) is the difference. Validation,
saving and compilation are left out, as they are of the time of a step in metrics.jsonl. Prints the medians of each, and
of the share alone / loop within a round: the machine's speed drifts, a ratio of neighbours does not.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from gpt2jax import config as settings
from gpt2jax import runtime
from gpt2jax.data.prepare import prepare
from gpt2jax.train import loop

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


class Held:
    """The run's step; before every ``steps`` calls, as many on a batch that does not change, timed by themselves."""

    def __init__(self, step: Any, steps: int) -> None:
        self.step, self.steps = step, steps
        self.calls, self.began = 0, 0.0
        self.rounds: list[tuple[float, float]] = []
        """Seconds per step of the loop, and alone."""

    def lower(self, *args: Any) -> "Held":
        self.program = self.step.lower(*args).compile()
        return self

    def compile(self) -> "Held":
        return self

    def __call__(self, state: Any, windows_ABT1: jax.Array) -> tuple[Any, Any]:
        if self.calls % self.steps == 0:
            jax.block_until_ready(state)
            middle = time.perf_counter()
            for _ in range(self.steps):
                state, _ = self.program(state, windows_ABT1)
            jax.block_until_ready(state)
            end = time.perf_counter()
            if self.calls > self.steps:  # The first of both hold compilation and first touches.
                of_loop, alone = (middle - self.began) / self.steps, (end - middle) / self.steps
                self.rounds.append((of_loop, alone))
                print(f"loop {1e3 * of_loop:.2f} ms   alone {1e3 * alone:.2f} ms", file=sys.stderr)
            self.began = end
        self.calls += 1
        state, metrics = self.program(state, windows_ABT1)
        return state, metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--log-interval", type=int, default=10, help="as training.log_interval")
    given = parser.parse_args()
    runtime.keep_memory()  # As `gpt2jax train` does.
    # A first round that is not counted, and the call that ends the last one.
    total = given.steps * (given.rounds + 1) + 1
    held: list[Held] = []
    make_train_step = loop.make_train_step

    def held_step(*args: Any) -> Any:
        held.append(Held(make_train_step(*args), given.steps))
        return held[-1]

    with mock.patch.object(loop, "make_train_step", held_step), tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pydoc"
        prepare(["pydoc"], data, tokenizer="bytes")
        config = settings.load(QUICKSTART)
        training = dataclasses.replace(
            config.training,
            run_dir=str(Path(folder) / "run"),
            steps=total,
            log_interval=given.log_interval,
            eval_interval=total,
            eval_batches=1,
            checkpoint_interval=total,
        )
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(data)), training=training)
        loop.train(config)
    rounds = held[0].rounds
    shares = sorted(alone / of_loop for of_loop, alone in rounds)
    result = {
        "rounds": len(rounds),
        "loop_ms": round(1e3 * statistics.median(of_loop for of_loop, _ in rounds), 2),
        "alone_ms": round(1e3 * statistics.median(alone for _, alone in rounds), 2),
        "share_median": round(statistics.median(shares), 3),
        "share_range": [round(shares[0], 3), round(shares[-1], 3)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
