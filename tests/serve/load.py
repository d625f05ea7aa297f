"""Many clients of every kind at one server, from a second process over loopback, for minutes.

    python -m tests.serve.load --minutes 4

Serves a tiny model and asks it in rounds, each with 1, 16, 64 and 200 clients at once: whole answers of all routes,
streams, slow readers, clients that leave, bodies of which half comes, and streams that nobody reads. Each answer must
be the offline engine's, token for token; the server's resident memory is noted twice a second, and must not grow from
the second round to the last. Writes benchmarks/results/serve_load.md.
"""

import argparse
import asyncio
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import uvicorn

from tests.serve.clients import BODY, STALL, Clients, make_requests
from tests.serve.helpers import tiny_writer
from tests.serve.process import Server, write_model

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "serve_load.md"
OPTIONS = ["--slots", "16", "--queue", "160", "--chunk", "16", "--max-tokens", "100", "--max-texts", "20"]
OPTIONS += ["--body-timeout", str(BODY), "--stall-timeout", str(STALL), "--timeout", "60"]
KINDS = ("whole", "streamed", "slow", "vanished", "half a body", "stuck", "turned away")
# By which resident memory may grow from the second round to the last: pages that the allocator has not given back.
MOST_GROWTH_MB = 8.0


class Level(NamedTuple):
    clients: int
    counts: Counter[str]


class Load(NamedTuple):
    levels: list[Level]
    memory: list[list[float]]
    """Megabytes, of each round."""
    wrong: list[str]
    left: str
    """The server's own count of what waits at the end."""

    @property
    def growth(self) -> float:
        """Megabytes, from the second round's median to the last one's."""
        return statistics.median(self.memory[-1]) - statistics.median(self.memory[1])


def resident(process: int) -> float:
    """Megabytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def load(clients: list[int], rounds: int, seconds: float, requests: int = 120) -> Load:
    """Rounds of ``seconds`` for each number of clients.

    Raises:
        AssertionError: the server did not end well.
    """
    asked = make_requests(tiny_writer(), requests)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(write_model(Path(folder) / "tiny"), *OPTIONS)
        try:
            counts = {number: Counter[str]() for number in clients}
            memory: list[list[float]] = []
            wrong: list[str] = []

            async def run_all() -> None:
                for number in range(rounds):
                    memory.append([])
                    for level in clients:
                        some = Clients(server.address, asked, seed=number * 1000 + level)
                        sampling = asyncio.create_task(sample(memory[-1]))
                        await some.run(level, seconds)
                        sampling.cancel()
                        await some.client.aclose()
                        counts[level] += some.counts
                        wrong.extend(some.wrong)

            async def sample(found: list[float]) -> None:
                while True:
                    found.append(resident(server.process.pid))
                    await asyncio.sleep(min(0.5, seconds / 4))

            asyncio.run(run_all())
            left = waiting(server)
        finally:
            status = server.end()
    assert status == 0, server.lines[-20:]
    wrong += [line for line in server.lines if "Traceback" in line or "Error" in line]
    return Load([Level(*one) for one in counts.items()], memory, wrong, left)


def waiting(server: Server) -> str:
    """``0.0`` as soon as nothing waits."""
    end = time.monotonic() + 20
    while True:
        found = re.search(r"^gpt2jax_waiting (\S+)", server.get("/metrics").text, re.M)
        assert found
        if found[1] == "0.0" or time.monotonic() > end:
            return found[1]
        time.sleep(0.1)


def table(made: Load) -> str:
    head = f"| clients | {' | '.join(KINDS)} | compared |\n|{'---|' * (len(KINDS) + 2)}\n"
    return head + "\n".join(
        f"| {level.clients} | {' | '.join(f'{level.counts[kind]:,}' for kind in KINDS)}"
        f" | {sum(level.counts[kind] for kind in ('whole', 'streamed', 'slow')):,} |"
        for level in made.levels
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 16, 64, 200])
    given = parser.parse_args()
    made = load(given.clients, given.rounds, given.minutes * 60 / given.rounds / len(given.clients))
    for line in made.wrong[:20]:
        print(line[:1000])
    options = f"--minutes {given.minutes:g} --rounds {given.rounds} --clients {' '.join(map(str, given.clients))}"
    rows = "\n".join(
        f"| {number} | {statistics.median(one):.1f} | {max(one):.1f} |" for number, one in enumerate(made.memory, 1)
    )
    RESULTS.write_text(
        f"""# A server under load

`python -m tests.serve.load {options}`
on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; jax {jax.__version__}, uvicorn
{uvicorn.__version__}. A tiny model with 16 slots and room for 160 texts that wait; the clients are a second process on
the same machine. {given.rounds} rounds, in each of which as many clients as the table says ask one request after the
other.

{table(made)}

Whole answers (of `/score`, `/v1/completions` and `/v1/embeddings`), streams and slow readers' streams were compared
with the offline engine's, texts token for token: {len(made.wrong)} were wrong, or had another status than 200 and 429
(turned away because the queue was full). The others left in the middle of a text, sent half a body (408), or read
nothing of a stream for longer than `stall_timeout`. At the end {float(made.left):g} texts waited.

The server's resident memory, MB:

| round | median | most |
|---|---|---|
{rows}

From the second round to the last it grew by {made.growth:.1f} MB; the first one has the first use of everything in it.
""",
        encoding="utf-8",
    )
    print(RESULTS.read_text("utf-8"))
    return 1 if made.wrong or made.growth > MOST_GROWTH_MB or made.left != "0.0" else 0


if __name__ == "__main__":
    sys.exit(main())
