"""Decoding beside transformers' generate: the same weights, prompts and greedy tokens, in turn (A B A B) in one run.

    python benchmarks/generate.py --torch-python .venv-peers/bin/python

The peer's environment needs torch and transformers (tests/peers/requirements.txt). Writes benchmarks/results/
generate.md. Weights are random, float32; 32-token prompts, 64 new tokens. The peer runs with its dynamic and with its
static cache; the ratio is to whichever is faster in that round. The floor is the time in which the weights, and the
cache as full as it is on average, could be read once at the speed at which NumPy copies memory (on one core).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin

RESULTS = Path(__file__).parent / "results" / "generate.md"
PROMPT, NEW = 32, 64


class Worker:
    def __init__(self, python: str, script: str, work: dict[str, object]) -> None:
        command = [python, str(Path(__file__).with_name(script)), json.dumps(work)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self) -> tuple[float, list[list[int]]]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, tokens = json.loads(self.process.stdout.readline())
        return seconds, tokens

    def close(self) -> None:
        self.process.communicate()


def copy_speed() -> float:
    """Bytes a second that NumPy copies: each is read once and written once."""
    source, target = np.ones(1 << 28, np.uint8), np.zeros(1 << 28, np.uint8)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.size / statistics.median(times)


def measure(name: str, batch: int, python: str, rounds: int, folder: Path, speed: float) -> str:
    config = ModelConfig(**PRESETS[name])  # type: ignore[arg-type]
    prompts = folder / f"{batch}.npy"
    np.save(prompts, np.random.default_rng(0).integers(config.n_vocab, size=(batch, PROMPT)))
    work: dict[str, object] = {"model": str(folder / name), "prompts": str(prompts), "new": NEW}
    ours = Worker(sys.executable, "jax_generate.py", work)
    peers = [Worker(python, "torch_generate.py", work | {"cache": cache}) for cache in ("dynamic", "static")]
    for worker in (ours, *peers):  # Compilation and first touches.
        worker.run()
    times = []
    for _ in range(rounds):
        (mine, tokens), (dynamic, theirs), (static, _) = ours.run(), *(peer.run() for peer in peers)
        times.append((mine, dynamic, static))
        print(f"{name} x {batch}: ours {mine:.2f} s, dynamic {dynamic:.2f} s, static {static:.2f} s", file=sys.stderr)
    for worker in (ours, *peers):
        worker.close()
    equal = np.mean(np.array(tokens) == np.array(theirs))
    ratios = [min(dynamic, static) / mine for mine, dynamic, static in times]
    medians = [batch * NEW / statistics.median(column) for column in zip(*times, strict=True)]
    weights = 4 * parameters.count(config)
    cache = 2 * 4 * batch * config.n_layer * config.n_embd * (PROMPT + NEW / 2)
    floor = batch * speed / (weights + cache)
    rates = " | ".join(f"{median:.1f}" for median in medians)
    return (
        f"| {name} | {batch} | {rates} | {statistics.median(ratios):.2f} |"
        f" {min(ratios):.2f} to {max(ratios):.2f} | {100 * equal:.1f} % | {100 * medians[0] / floor:.0f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="interpreter of an environment that has transformers")
    parser.add_argument("--sizes", nargs="+", choices=list(PRESETS), default=["gpt2", "gpt2-medium"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    speed, rows = copy_speed(), []
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.sizes:
            config = ModelConfig(**PRESETS[name])  # type: ignore[arg-type]
            params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
            held = HeldWeights(Origin("random", "random", config, tokenizer.gpt2()), params)
            convert(held, Path(temporary) / name, "huggingface")
            del params, held
            for batch in given.batches:
                rows.append(measure(name, batch, given.torch_python, given.rounds, Path(temporary), speed))
                print(rows[-1], flush=True)
    versions = subprocess.run(
        [given.torch_python, "-c", "import torch, transformers; print(torch.__version__, transformers.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    options = f"--sizes {' '.join(given.sizes)} --batches {' '.join(map(str, given.batches))} --rounds {given.rounds}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    RESULTS.write_text(
        f"""# Decoding beside transformers

`python benchmarks/generate.py --torch-python .venv-peers/bin/python {options}` on {machine},
{time.strftime("%Y-%m-%d")}; jax {jax.__version__}, torch {versions[0]}, transformers {versions[1]}.
Random weights, float32, {PROMPT}-token prompts,
{NEW} new tokens, greedy; {given.rounds} rounds in turn. Tokens a second over all rows, prompts included in the time.
The ratio is to the faster of the two caches in each round. Memory is copied at {speed / 1e9:.1f} GB/s here (bytes
read and bytes written).

| model | batch | ours | dynamic cache | static cache | ratio, median | range | same tokens | of the floor |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
""",
        encoding="utf-8",
    )
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
