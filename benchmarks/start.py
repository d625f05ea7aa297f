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


def whole(*command: str) -> float:
    """When the program has ended (of the performance counter, as below)."""
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter()


def first_token(model: str, cache: str) -> float:
    """When the first new character came; the program ends after it."""
    command = [sys.executable, "-m", "gpt2jax", "generate", "--model", model, PROMPT, "--no-return-full-text"]
    # As the command line sets it, but in a folder that begins empty.
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "1", "--ignore-end-of-text"], stdout=subprocess.PIPE, env=os.environ | kept
    )
    assert process.stdout
    process.stdout.read(1)
    moment = time.perf_counter()
    process.communicate()
    if process.returncode:
        raise SystemExit(f"gpt2jax generate ended with {process.returncode}")
    return moment


def timed(function: Callable[..., float], *args: str) -> turns.Turn:
    """Seconds until the moment that ``function`` tells; of the processor all that its program took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    seconds, after = function(*args) - start, resource.getrusage(resource.RUSAGE_CHILDREN)
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
