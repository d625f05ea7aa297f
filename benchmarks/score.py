"""Scoring windows beside transformers: the same weights and windows of random tokens, float32, in turn.

For each stride a few windows from the second on, which is what nearly all of a run is. The peer runs twice: with logits
of all positions, as its documentation's page on perplexity does, and with ``logits_to_keep``, of those that are scored
alone; both with the batch size of those in --batches that is fastest for it. Sums of log-probabilities are compared.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, results, turns
from gpt2jax.config import ModelConfig
from gpt2jax.evaluate.rows import strided
from gpt2jax.presets import PRESETS

SIZES: dict[str, dict[str, Any]] = PRESETS | {
    "toy": {"n_vocab": 65, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--stride", nargs="+", type=int, default=[32, 512, 1024])
    parser.add_argument("--windows", type=int, default=8, help="scored in a round")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4], help="sizes that the peer may choose from")


def measure(stride: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    config = ModelConfig(**SIZES[given.size])
    size = config.n_ctx + (given.windows + 1) * stride
    tokens = np.random.default_rng(0).integers(config.n_vocab, size=size).tolist()
    rows = list(islice(strided(tokens, config.n_ctx, stride), 1, 1 + given.windows))
    windows = folder / f"{stride}.npy"
    np.save(windows, np.stack([row.tokens for row in rows]))
    work: dict[str, Any] = {"model": str(folder / "model"), "windows": str(windows), "first": rows[0].first}
    sides = {"gpt2jax": turns.ours("our_score.py", work)}
    if given.peer:
        for name, keep in (("all logits", False), ("kept logits", True)):
            told = work | {"keep": keep, "batches": given.batches}
            sides[f"transformers, {name}"] = turns.Side(given.peer, "peer_score.py", told)
    done, first = turns.in_turns(sides, 1, given.rounds, 1)
    sums = {name: total for name, (total, _) in first.items()}
    apart = max(abs(total / sums["gpt2jax"] - 1) for total in sums.values())
    if apart > 1e-4:
        raise SystemExit(f"stride {stride}: sums of log-probabilities differ by {apart:.1e}: not the same work: {sums}")
    record: dict[str, Any] = {
        "work": {"size": given.size, "stride": stride, "windows": len(rows), "dtype": "float32", "rounds": given.rounds}
    }
    record |= {"load": turns.load(), "apart": float(f"{apart:.2g}")}
    record["peer_batch"] = {name: batch for name, (_, batch) in first.items() if batch}
    return record | turns.compare(done, 1)


def run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        models.write(ModelConfig(**SIZES[given.size]), Path(name) / "model")
        for stride in given.stride:
            results.show(results.add("score", measure(stride, Path(name), given), given.peer, given.results))
