"""Loading a Hugging Face folder into arrays beside transformers' from_pretrained: the same file, in turn.

The file stays in the system's cache: this is the work of reading, not the disk. Sums of all parameters are compared.
Memory and time of conversions are `python benchmarks/convert.py`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import models, results, turns
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS

SIZES: dict[str, dict[str, Any]] = PRESETS | {
    "toy": {"n_vocab": 65, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["gpt2"])


def measure(size: str, given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = models.write(ModelConfig(**SIZES[size]), Path(name) / "model")
        sides = {"gpt2jax": turns.ours("our_load.py", {"model": str(folder)})}
        if given.peer:
            sides["transformers"] = turns.Side(given.peer, "peer_load.py", {"model": str(folder)})
        done, first = turns.in_turns(sides, 1, given.rounds, 1)
    apart = max(abs(total / first["gpt2jax"] - 1) for total in first.values())
    if apart > 1e-6:
        raise SystemExit(f"{size}: sums of squares of the parameters differ by {apart:.1e}: {first}")
    work = {"size": size, "form": "huggingface", "dtype": "float32", "rounds": given.rounds}
    return {"work": work, "load": turns.load(), "apart": float(f"{apart:.2g}")} | turns.compare(done, 1)


def run(given: argparse.Namespace) -> None:
    for size in given.size:
        results.show(results.add("load", measure(size, given), given.peer, given.results))
