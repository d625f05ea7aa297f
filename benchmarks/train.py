"""The training step beside torch: the same weights, windows, AdamW and clipping, float32, in turn.

Peers: ``torch``, a plain loop written to be fast (fused AdamW and attention, nothing else), ``transformers``, its own
GPT-2 with the same AdamW; each also through torch.compile. Losses of the first steps are compared.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, results, turns
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS

SIZES: dict[str, dict[str, Any]] = {
    "4x128": {"n_vocab": 65, "n_ctx": 64, "n_embd": 128, "n_head": 4, "n_layer": 4, "batch": 12},
    "6x384": {"n_vocab": 65, "n_ctx": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "batch": 16},
    "gpt2": PRESETS["gpt2"] | {"n_ctx": 512, "batch": 2},
    "toy": {"n_vocab": 65, "n_ctx": 16, "n_embd": 32, "n_head": 2, "n_layer": 2, "batch": 2},
}
PEERS = ("torch", "torch-compiled", "transformers", "transformers-compiled")
# Steps in a turn: seconds, not milliseconds and not minutes.
STEPS = {"4x128": 20, "6x384": 1, "gpt2": 1, "toy": 5}
COMPARED = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["4x128", "6x384", "gpt2"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--steps", type=int, help="steps of each side in a round")


def measure(size: str, given: argparse.Namespace) -> dict[str, Any]:
    sizes = dict(SIZES[size])
    batch = sizes.pop("batch")
    config = ModelConfig(**sizes)
    steps = given.steps or STEPS[size]
    with tempfile.TemporaryDirectory() as name:
        folder = models.write(config, Path(name) / "model")
        windows = Path(name) / "windows.npy"
        np.save(windows, np.random.default_rng(0).integers(config.n_vocab, size=(batch, config.n_ctx + 1)))
        work = {"model": str(folder), "windows": str(windows), "n_ctx": config.n_ctx}
        sides = {"gpt2jax": turns.ours("our_train.py", work)}
        if given.peer:
            for peer in given.peers:
                kind, _, compiled = peer.partition("-")
                told = work | {"kind": kind, "compiled": bool(compiled)}
                sides[peer] = turns.Side(given.peer, "peer_train.py", told)
        done, first = turns.in_turns(sides, steps, given.rounds, COMPARED)
    mine = np.array(first["gpt2jax"])
    apart = max((float(np.max(np.abs(np.array(losses) / mine - 1))) for losses in first.values()), default=0.0)
    if apart > 1e-3:
        raise SystemExit(f"{size}: the losses of the first steps differ by {apart:.1e}: not the same work: {first}")
    record = {
        "work": {"size": size} | SIZES[size] | {"dtype": "float32", "steps": steps, "rounds": given.rounds},
        "load": turns.load(),
        "apart": float(f"{apart:.2g}"),
    }
    return record | turns.compare(done, steps)


def run(given: argparse.Namespace) -> None:
    for size in given.size:
        results.show(results.add("train", measure(size, given), given.peer, given.results))
