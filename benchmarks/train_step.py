"""Training step of gpt2jax against an eager PyTorch step of the same model, interleaved (A B A B) in one run.

    python benchmarks/train_step.py --torch-python .venv-torch/bin/python

The torch interpreter needs torch and numpy only. Prints the median over the rounds of each, and of their ratio
within a round: the machine's speed drifts, a ratio of neighbours does not.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

SIZES = {
    # nanoGPT's shakespeare_char recipe for CPU, then its GPU recipe with a quarter of the batch.
    "char-cpu": {"n_vocab": 65, "n_ctx": 64, "n_embd": 128, "n_head": 4, "n_layer": 4, "batch": 12},
    "char-gpu": {"n_vocab": 65, "n_ctx": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "batch": 16},
}


class Worker:
    def __init__(self, python: str, script: str, sizes: dict[str, int]) -> None:
        path = Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [python, str(path), json.dumps(sizes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds_per_step(self, steps: int) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline()) / steps

    def close(self) -> None:
        self.process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="interpreter of an environment that has torch")
    parser.add_argument("--size", choices=SIZES, default="char-cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps of each side in a round")
    args = parser.parse_args()

    jax_worker = Worker(sys.executable, "jax_step.py", SIZES[args.size])
    torch_worker = Worker(args.torch_python, "torch_step.py", SIZES[args.size])
    for worker in (jax_worker, torch_worker):  # Compilation and first touches.
        worker.seconds_per_step(args.steps)
    rounds = []
    for _ in range(args.rounds):
        rounds.append((jax_worker.seconds_per_step(args.steps), torch_worker.seconds_per_step(args.steps)))
        print(f"jax {1e3 * rounds[-1][0]:8.1f} ms   torch {1e3 * rounds[-1][1]:8.1f} ms", file=sys.stderr)
    jax_worker.close()
    torch_worker.close()

    ratios = sorted(ours / theirs for ours, theirs in rounds)
    result = {
        "size": args.size,
        "machine": f"{platform.machine()}, {len(__import__('os').sched_getaffinity(0))} cores",
        "jax_ms": round(1e3 * statistics.median(ours for ours, _ in rounds), 2),
        "torch_ms": round(1e3 * statistics.median(theirs for _, theirs in rounds), 2),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
