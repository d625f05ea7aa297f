"""Start-up of a fresh process: `import gpt2jax`, `gpt2jax --help`, and `gpt2jax generate` to its first new character.

The first token's first run fills a compilation cache of its own and is told apart (cold). There is no peer: what
another program imports says nothing of ours.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, results, turns
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS

PROMPT = "Once upon a time, far far away,"
SIZES: dict[str, dict[str, Any]] = PRESETS | {"toy": {"n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="gpt2")


def whole(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def first_token(model: str, cache: str) -> None:
    command = [sys.executable, "-m", "gpt2jax", "generate", "--model", model, PROMPT, "--no-return-full-text"]
    # As the command line sets it, but in a folder that begins empty.
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "1", "--ignore-end-of-text"], stdout=subprocess.PIPE, env=os.environ | kept
    )
    assert process.stdout
    process.stdout.read(1)
    process.communicate()
    if process.returncode:
        raise SystemExit(f"gpt2jax generate ended with {process.returncode}")


def timed(function: Callable[..., None], *args: str) -> turns.Turn:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    function(*args)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return turns.Turn(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, None)


def run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        model, cache = models.write(ModelConfig(**SIZES[given.size]), Path(name) / "model"), f"{name}/cache"
        cold = timed(first_token, str(model), cache)
        done: dict[str, list[turns.Turn]] = {"import gpt2jax": [], "gpt2jax --help": [], "first token, warm cache": []}
        for _ in range(given.rounds):
            done["import gpt2jax"].append(timed(whole, "-c", "import gpt2jax"))
            done["gpt2jax --help"].append(timed(whole, "-m", "gpt2jax", "--help"))
            done["first token, warm cache"].append(timed(first_token, str(model), cache))
    record = {"work": {"size": given.size, "rounds": given.rounds}, "load": turns.load()}
    record |= {"cold_seconds": float(f"{cold.seconds:.4g}"), "sides": turns.compare(done, 1)["sides"]}
    results.show(results.add("start", record, None, given.results))
