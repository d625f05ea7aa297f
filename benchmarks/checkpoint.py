"""What saving costs the training loop: steps with and without a checkpoint among them, interleaved in one run.

    python benchmarks/checkpoint.py

In a round the same number of steps is done without saving; with a checkpoint that is written in the background, as
`gpt2jax train` does it; and with one that is waited for. Prints medians over the rounds, and of the ratios within a
round: the machine's speed drifts, a ratio of neighbours does not. Beside the time by the clock stands that of the
processor, all threads and the end of the write included, which other programs disturb less.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

from gpt2jax import digest
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.record import Meta, describe
from gpt2jax.train.step import init_state, make_place, make_train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    config = Config(
        model=ModelConfig(n_vocab=257, n_ctx=64, n_embd=given.width, n_head=6, n_layer=given.layers),
        optimizer=OptimizerConfig(warmup_steps=10, decay_steps=100_000),
        training=TrainingConfig(batch_size=given.batch),
    )
    place = make_place(config)
    state, train_step = init_state(config, place), make_train_step(config, place)
    shape = (1, given.batch, config.model.n_ctx + 1)
    windows = np.random.default_rng(0).integers(257, size=shape, dtype=np.int32)
    arrays = digest.paths(state)
    size = sum(leaf.nbytes for leaf in arrays.values())
    numbers = itertools.count(1)
    saves, digests, kinds = [], [], ("without", "background", "waited for")
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:

        def seconds_per_step(kind: str) -> tuple[float, float]:
            """By the clock, and of the processor."""
            nonlocal state
            began, work = time.perf_counter(), time.process_time()
            if kind != "without":
                jax.block_until_ready(state)
                before = time.perf_counter()
                checkpoints.save(state, Meta(next(numbers), config.model, None, 1.0))
                if kind == "waited for":
                    checkpoints.wait()
                else:
                    saves.append(time.perf_counter() - before)
            for _ in range(given.steps):
                state, metrics = train_step(state, jax.device_put(windows))
                checkpoints.check()
            float(metrics["loss"])
            taken = (time.perf_counter() - began) / given.steps
            checkpoints.wait()  # A write that is not done is not left to the next kind.
            return taken, (time.process_time() - work) / given.steps

        for kind in kinds:  # Compilation and first touches.
            seconds_per_step(kind)
        saves.clear()
        rounds = []
        for _ in range(given.rounds):
            rounds.append([seconds_per_step(kind) for kind in kinds])
            before = time.perf_counter()
            describe(state)
            digests.append(time.perf_counter() - before)
            print(
                "   ".join(
                    f"{kind} {1e3 * s:.1f} ms"
                    for kind, s in zip(kinds, [clock for clock, _ in rounds[-1]], strict=True)
                ),
                file=sys.stderr,
            )

    plain = statistics.median(round_[0][0] for round_ in rounds)
    result = {
        "state_mb": round(size / 1e6, 1),
        "steps_between_checkpoints": given.steps,
        "step_ms": round(1e3 * plain, 1),
        "save_call_in_steps": round(statistics.median(saves) / plain, 2),
        "digests_in_steps": round(statistics.median(digests) / plain, 2),
    }
    for column, kind in ((1, "background"), (2, "waited for")):
        ratios = sorted(round_[column][0] / round_[0][0] for round_ in rounds)
        work = statistics.median(round_[column][1] / round_[0][1] for round_ in rounds)
        result[f"{kind}_ratio"] = round(statistics.median(ratios), 3)
        result[f"{kind}_processor_ratio"] = round(work, 3)
        result[f"{kind}_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
