"""Two and more programs measured in turn: A B A B, each a process of its own that stays, told when to work.

A worker's line on standard input is a number of repetitions; its line on standard output is JSON: seconds, seconds of
CPU, and what came out, by which it is seen that all of them did the same work.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a worker said of one turn."""

    seconds: float
    """Of the clock, for all repetitions."""
    cpu: float
    """Of the processor, over all threads: other work on the machine lengthens these less."""
    output: Any


class Worker:
    def __init__(self, python: str, script: str, work: Mapping[str, Any]) -> None:
        command = [python, str(WORKERS / script), json.dumps(work)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.script = script

    def turn(self, count: int) -> Turn:
        assert self.process.stdin
        assert self.process.stdout
        line = ""
        with suppress(BrokenPipeError):  # It has ended before it was asked.
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.script} ended with {self.process.wait()}: what it said stands above")
        return Turn(*json.loads(line))

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.communicate()


@dataclasses.dataclass(frozen=True)
class Side:
    """A program that takes part: which interpreter runs which script of ``workers/``, and what it is told."""

    python: str
    script: str
    work: Mapping[str, Any]


def ours(script: str, work: Mapping[str, Any]) -> Side:
    return Side(sys.executable, script, work)


@contextmanager
def running(sides: Mapping[str, Side]) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {}
        for name, side in sides.items():
            workers[name] = Worker(side.python, side.script, side.work)
            stack.callback(workers[name].close)
        yield workers


def in_turns(sides: Mapping[str, Side], count: int, rounds: int, warm_up: int) -> tuple[dict[str, list[Turn]], Any]:
    """Each side ``rounds`` times, one after the other.

    Args:
        count: repetitions in a turn.
        warm_up: repetitions of the first turn, which is not counted: compilation and first touches.

    Returns:
        The turns of each side, and the outputs of the first one of all, by side.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    with running(sides) as workers:
        first = {name: worker.turn(warm_up).output for name, worker in workers.items()}
        for number in range(rounds):
            for name, worker in workers.items():
                turns[name].append(worker.turn(count))
            times = ", ".join(f"{name} {1e3 * done[-1].seconds / count:,.1f} ms" for name, done in turns.items())
            print(f"round {number + 1}: {times}", file=sys.stderr, flush=True)
    return turns, first


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, to four figures."""
    numbers = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{number:.4g}") for name, number in numbers.items()}


def compare(turns: Mapping[str, Sequence[Turn]], count: int) -> dict[str, Any]:
    """Of each side: seconds a repetition; of each peer (all but the first): its time over ours, round by round, so that
    above 1 is faster than the peer."""
    mine = next(iter(turns))
    sides = {
        name: {
            "seconds": spread([turn.seconds / count for turn in done]),
            "cpu_seconds": spread([turn.cpu / count for turn in done]),
        }
        for name, done in turns.items()
    }
    ratios = {
        name: {
            "clock": spread([peer.seconds / our.seconds for our, peer in zip(turns[mine], done, strict=True)]),
            "cpu": spread([peer.cpu / our.cpu for our, peer in zip(turns[mine], done, strict=True)]),
        }
        for name, done in turns.items()
        if name != mine
    }
    return {"sides": sides, "ratios": ratios}


def load() -> float:
    """Of the machine over the last five minutes: what is above that of our own threads is other work."""
    return round(os.getloadavg()[1], 2) if hasattr(os, "getloadavg") else float("nan")
