"""How time grows with each size while all others are held: slopes of log time against log size.

    python -m benchmarks growth
    python -m benchmarks growth --axes depth read --rounds 7
    python -m benchmarks table

Training step, sampling, conversion, reading of data: the axes are in benchmarks/growth_axes.py. The sizes of an axis
are measured in turn, round by round (1, 2, 4, 1, 2, 4), after a warm-up, since the machine's speed drifts. What takes
less than a tenth of a second is repeated within its turn. ``table`` makes growth.md and growth.png of growth.json.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth_page, results, turns
from benchmarks.growth_axes import AXES, Point, Size

TURN = 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--size", choices=("full", "toy"), default="full", help="toy: in seconds, tells of nothing")


def timed(point: Point, count: int) -> turns.Turn:
    seconds = cpu = 0.0
    for _ in range(count):
        given = point.before()
        start, used = time.perf_counter(), time.process_time()
        point.work(given)
        seconds, cpu = seconds + time.perf_counter() - start, cpu + time.process_time() - used
    return turns.Turn(seconds / count, cpu / count, None)


def in_rounds(points: Sequence[Point], rounds: int) -> dict[str, Any]:
    """Seconds and seconds of CPU of a repetition, [points][rounds], and how many of them are in a turn."""
    counts = []
    for point in points:
        timed(point, 1)  # Compilation and first touches.
        counts.append(max(1, math.ceil(TURN / timed(point, 1).seconds)))
    done: list[list[turns.Turn]] = [[] for _ in points]
    for _ in range(rounds):
        for turns_of, point, count in zip(done, points, counts, strict=True):
            turns_of.append(timed(point, count))
    return {
        "sizes": [point.size for point in points],
        "counts": counts,
        "seconds": [[float(f"{one.seconds:.4g}") for one in of] for of in done],
        "cpu_seconds": [[float(f"{one.cpu:.4g}") for one in of] for of in done],
    }


def measure(name: str, size: Size, rounds: int) -> dict[str, Any]:
    axis = AXES[name]
    with tempfile.TemporaryDirectory() as folder:
        points = axis.points(axis.sizes[size], axis.held[size], Path(folder))
        found = in_rounds(points, rounds)
    print(growth_page.said(name, found), file=sys.stderr, flush=True)
    return {"held": axis.held[size]} | found


def run(given: argparse.Namespace) -> None:
    axes = {name: measure(name, given.size, given.rounds) for name in given.axes}
    record = {"work": {"size": given.size, "rounds": given.rounds}, "load": turns.load(), "axes": axes}
    results.show(results.add("growth", record, None, given.results))
    for name, found in axes.items():
        print(f"  {growth_page.said(name, found)}")
