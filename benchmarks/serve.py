"""Many clients at once: a server whose texts share a step, against one that writes them one after the other.

    python benchmarks/serve.py

Both are `gpt2jax serve` of the same gpt2 with random weights, float32, one with 16 slots and one with a single slot.
They are asked in turn (A B A B) by as many clients at once, each for a text of the same length. Prints and writes
benchmarks/results/serve.md: new tokens a second of all clients together, the ratio within each round, and the seconds
until a client has its text.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jax

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin

RESULTS = Path(__file__).parent / "results" / "serve.md"


class Server:
    def __init__(self, model: Path, slots: int) -> None:
        options = ["--slots", str(slots), "--port", "0", "--timeout", "3600"]
        command = [sys.executable, "-m", "gpt2jax", "serve", "--model", str(model), *options]
        start = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        self.address = ""
        for line in self.process.stderr:
            if found := re.search(r"at (http://\S+);", line):
                self.address = found[1]
            if line.startswith("ready"):
                break
        self.started = time.perf_counter() - start
        self.log = ThreadPoolExecutor(1).submit(self.process.stderr.read)

    def write(self, number: int, tokens: int) -> float:
        """Seconds until a client has its text."""
        body = {
            "prompt": f"Number {number} of them:",
            "max_tokens": tokens,
            "logit_bias": {"50256": -100},
            "seed": number,
        }
        start = time.perf_counter()
        answer = httpx.post(self.address + "/v1/completions", json=body, timeout=3600)
        assert answer.json()["usage"]["completion_tokens"] == tokens
        return time.perf_counter() - start

    def load(self, clients: int, tokens: int) -> tuple[float, float]:
        """New tokens a second of all clients, and the median of their seconds."""
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            seconds = list(pool.map(lambda number: self.write(number, tokens), range(clients)))
        return clients * tokens / (time.perf_counter() - start), statistics.median(seconds)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2", choices=list(PRESETS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=32, help="new ones of each text")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        config = ModelConfig(**PRESETS[given.model])  # type: ignore[arg-type]
        params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
        convert(
            HeldWeights(Origin("random", "random", config, tokenizer.gpt2()), params), Path(temporary) / "m", "orbax"
        )
        del params
        shared, single = (Server(Path(temporary) / "m", slots) for slots in (16, 1))
        for server in (shared, single):
            server.write(0, 2)
        for clients in given.clients:
            rounds = [
                (shared.load(clients, given.tokens), single.load(clients, given.tokens)) for _ in range(given.rounds)
            ]
            ratios = [together / alone for (together, _), (alone, _) in rounds]
            rates = [statistics.median(one[side][0] for one in rounds) for side in (0, 1)]
            waits = [statistics.median(one[side][1] for one in rounds) for side in (0, 1)]
            lines.append(
                f"| {clients} | {rates[0]:.1f} | {rates[1]:.1f} | {statistics.median(ratios):.2f} |"
                f" {min(ratios):.2f} to {max(ratios):.2f} | {waits[0]:.1f} | {waits[1]:.1f} |"
            )
            print(lines[-1], flush=True)
        started = shared.started
        for server in (shared, single):
            server.end()
    table = "\n".join(lines)
    options = f"--clients {' '.join(map(str, given.clients))} --tokens {given.tokens} --rounds {given.rounds}"
    RESULTS.write_text(
        f"""# Many clients at once

`python benchmarks/serve.py --model {given.model} {options}`
on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; jax {jax.__version__}, float32, random
weights. Texts of {given.tokens} new tokens, as many at once as there are clients, of a server with 16 slots and of one
with a single slot, in turn. New tokens a second of all clients together; seconds until a client has its text. The first
server was ready {started:.0f} s after its start, with what was in the cache of compiled programs.

| clients | 16 slots, tokens/s | 1 slot, tokens/s | ratio | range | 16 slots, s | 1 slot, s |
|---|---|---|---|---|---|---|
{table}
""",
        encoding="utf-8",
    )
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
