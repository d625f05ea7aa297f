"""Scoring windows beside transformers: the same weights and windows, in turn (A B A B) in one run.

    GPT2JAX_PEER_PYTHON=.venv-peers/bin/python python benchmarks/evaluate.py wiki.test.tokens

The peer's environment needs torch and transformers (tests/peers/requirements.txt). TEXT is any text; weights are those
of a random gpt2, float32. For each stride a few windows from the second on, which is what nearly all of a run is. The
peer has the batch size that is fastest for it, and runs twice: with logits of all positions, as its documentation's
page on perplexity does, and with ``logits_to_keep``, of those that are scored alone. Beside seconds, the seconds of CPU
that each process used: other work on the machine lengthens the ones more than the others. Writes
benchmarks/results/evaluate.md.
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
from itertools import islice
from pathlib import Path

import jax
import numpy as np

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.evaluate.rows import strided
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin

RESULTS = Path(__file__).parent / "results" / "evaluate.md"


class Worker:
    def __init__(self, python: str, script: str, work: dict[str, object]) -> None:
        command = [python, str(Path(__file__).with_name(script)), json.dumps(work)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self) -> tuple[float, float, float, int | None]:
        """Seconds, seconds of CPU, the sum of log-probabilities, the batch size."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, used, total, batch = json.loads(self.process.stdout.readline())
        return seconds, used, total, batch

    def close(self) -> None:
        self.process.communicate()


def measure(stride: int, tokens: list[int], given: argparse.Namespace, folder: Path) -> str:
    rows = list(islice(strided(tokens, 1024, stride), 1, 1 + given.windows))
    windows = folder / f"{stride}.npy"
    np.save(windows, np.stack([row.tokens for row in rows]))
    work: dict[str, object] = {"model": str(folder / "gpt2"), "windows": str(windows), "first": rows[0].first}
    ours = Worker(sys.executable, "jax_evaluate.py", work)
    ours.run()  # Compilation and first touches.
    peers = [
        Worker(given.torch_python, "torch_evaluate.py", work | {"keep": keep, "batches": given.batches})
        for keep in (False, True)
    ]
    times, used = [], []
    for worker in peers:  # One after the other, each looking for its batch size alone.
        worker.run()
    for _ in range(given.rounds):
        done = [worker.run() for worker in (ours, *peers)]
        times.append([seconds for seconds, *_ in done])
        used.append([cpu for _, cpu, *_ in done])
        print(f"stride {stride}: {', '.join(f'{seconds:.2f} s' for seconds in times[-1])}", file=sys.stderr)
    for worker in (ours, *peers):
        worker.close()
    scored = len(rows) * (len(rows[0].tokens) - rows[0].first)
    rates = " | ".join(f"{scored / statistics.median(column):,.1f}" for column in zip(*times, strict=True))
    apart = max(abs(total / done[0][2] - 1) for _, _, total, _ in done)
    cells = []
    for peer in (1, 2):
        ratios = [one[peer] / one[0] for one in times]
        cpu = statistics.median(one[peer] / one[0] for one in used)
        cells.append(f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {cpu:.2f}")
    batches = f"{done[1][3]}, {done[2][3]}"
    return f"| {stride} | {rates} | {batches} | {' | '.join(cells)} | {apart:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--torch-python", default=os.environ.get("GPT2JAX_PEER_PYTHON"), help="GPT2JAX_PEER_PYTHON")
    parser.add_argument("--strides", nargs="+", type=int, default=[32, 512, 1024])
    parser.add_argument("--windows", type=int, default=8, help="scored in a round")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4], help="sizes that the peer may choose from")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not given.torch_python:
        parser.error("--torch-python: an interpreter of an environment that has transformers")
    text = given.text.read_text(encoding="utf-8")
    needed = 1024 + (given.windows + 1) * max(given.strides)
    tokens = tokenizer.gpt2().encode_ordinary(text[: 8 * needed])[:needed]
    with tempfile.TemporaryDirectory() as temporary:
        config = ModelConfig(**PRESETS["gpt2"])  # type: ignore[arg-type]
        params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
        held = HeldWeights(Origin("random", "random", config, tokenizer.gpt2()), params)
        convert(held, Path(temporary) / "gpt2", "huggingface")
        del params, held
        table = []
        for stride in given.strides:
            table.append(measure(stride, tokens, given, Path(temporary)))
            print(table[-1], flush=True)
    versions = subprocess.run(
        [given.torch_python, "-c", "import torch, transformers; print(torch.__version__, transformers.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    options = f"--strides {' '.join(map(str, given.strides))} --windows {given.windows} --rounds {given.rounds}"
    lines = "\n".join(table)
    load = os.getloadavg()[2]
    RESULTS.write_text(
        f"""# Scoring windows beside transformers

`GPT2JAX_PEER_PYTHON=.venv-peers/bin/python python benchmarks/evaluate.py {given.text.name} {options}`
on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; jax {jax.__version__},
torch {versions[0]}, transformers {versions[1]}. gpt2 with random weights, float32, windows of 1024;
{given.windows} windows a round, {given.rounds} rounds in turn. The load of the machine over the last quarter of an hour
was {load:.1f} at the end: what is above 1 is other work, which slows both sides; ratios are of neighbours in time.
Scored tokens a second; the time of the peer over ours, in seconds and in seconds of CPU. `all`: its logits of all
positions, as in its documentation; `kept`: those of scored ones alone (`logits_to_keep`), the most that its own options
give. The last column: by how much the sums of log-probabilities differ, relatively, at most.

| stride | ours | all | kept | batches | all: ratio | range | CPU | kept: ratio | range | CPU | sums differ |
|---|---|---|---|---|---|---|---|---|---|---|---|
{lines}
""",
        encoding="utf-8",
    )
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
