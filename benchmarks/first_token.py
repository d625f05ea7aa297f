"""Time to the first token in a fresh process: `gpt2jax generate` from the shell to its first new character.

    python benchmarks/first_token.py MODEL ... [--rounds 5]

MODEL is whatever `--model` takes. The first run of each fills a compilation cache of its own and is told apart.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT = "Once upon a time, far far away,"


def seconds(model: str, cache: str) -> float:
    command = [sys.executable, "-m", "gpt2jax", "generate", "--model", model, PROMPT, "--no-return-full-text"]
    # As the command line sets it, but in a folder that begins empty.
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    options = ["--max-new-tokens", "8", "--ignore-end-of-text"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, env=os.environ | kept)
    assert process.stdout
    process.stdout.read(1)
    taken = time.perf_counter() - start
    process.communicate()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print("| model | cold cache | warm cache, median | range |")
    print("|---|---|---|---|")
    for model in given.models:
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = seconds(model, cache), [seconds(model, cache) for _ in range(given.rounds)]
        print(f"| {model} | {cold:.2f} s | {statistics.median(warm):.2f} s | {min(warm):.2f} to {max(warm):.2f} s |")


if __name__ == "__main__":
    main()
