"""Decoding beside transformers' generate: the same weights, prompts and greedy tokens, float32, in turn.

32-token prompts, 64 new tokens; the peer runs with its dynamic and with its static cache. Tokens are compared. The
floor is the time in which the weights, and the cache as full as it is on average, could be read once at the speed at
which NumPy copies memory (on one core).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, results, turns
from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS

PROMPT, NEW = 32, 64
SIZES: dict[str, dict[str, Any]] = PRESETS | {
    "toy": {"n_vocab": 65, "n_ctx": 128, "n_embd": 32, "n_head": 2, "n_layer": 2}
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["gpt2", "gpt2-medium"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])


def copy_speed() -> float:
    """Bytes a second that NumPy copies: each is read once and written once."""
    source, target = np.ones(1 << 28, np.uint8), np.zeros(1 << 28, np.uint8)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.size / statistics.median(times)


def measure(size: str, batch: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    config = ModelConfig(**SIZES[size])
    prompts = folder / f"{batch}.npy"
    np.save(prompts, np.random.default_rng(0).integers(config.n_vocab, size=(batch, PROMPT)))
    work = {"model": str(folder / size), "prompts": str(prompts), "new": NEW}
    sides = {"gpt2jax": turns.ours("our_generate.py", work)}
    if given.peer:
        for cache in ("dynamic", "static"):
            sides[f"transformers, {cache} cache"] = turns.Side(given.peer, "peer_generate.py", work | {"cache": cache})
    speed = copy_speed()
    done, first = turns.in_turns(sides, 1, given.rounds, 1)
    mine = np.array(first["gpt2jax"])
    cache_bytes = 2 * 4 * batch * config.n_layer * config.n_embd * (PROMPT + NEW / 2)
    floor = NEW * (4 * parameters.count(config) + cache_bytes) / speed
    record: dict[str, Any] = {
        "work": {"size": size, "batch": batch, "prompt": PROMPT, "new": NEW, "dtype": "float32", "rounds": given.rounds}
    }
    record |= {"load": turns.load(), "floor_seconds": float(f"{floor:.4g}")}
    # Near ties in random weights fall to either side: a share, not an equality.
    record["same_tokens"] = {
        name: round(float(np.mean(mine == np.array(tokens))), 4) for name, tokens in first.items() if name != "gpt2jax"
    }
    return record | turns.compare(done, 1)


def run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        for size in given.size:
            models.write(ModelConfig(**SIZES[size]), Path(name) / size)
            for batch in given.batch:
                record = measure(size, batch, Path(name), given)
                results.show(results.add("generate", record, given.peer, given.results))
