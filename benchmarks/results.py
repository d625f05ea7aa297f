"""What was measured: JSON files under ``results/``, one a benchmark, to which each run is added."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpt2jax.files import write_text

FOLDER = Path(__file__).parent / "results"
OURS = ("jax", "jaxlib", "flax", "optax", "numpy")
THEIRS = ("torch", "transformers")


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} core{'s' if cores != 1 else ''}"


def versions(peer_python: str | None) -> dict[str, str]:
    """Of Python and the packages on both sides."""
    found = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in OURS}
    if peer_python:
        script = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {THEIRS!r}}}))"
        done = subprocess.run([peer_python, "-c", script], check=True, capture_output=True, text=True)
        found |= json.loads(done.stdout)
    return found


def read(benchmark: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    path = folder / f"{benchmark}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def add(benchmark: str, record: dict[str, Any], peer_python: str | None, folder: Path = FOLDER) -> dict[str, Any]:
    """Append to ``results/BENCHMARK.json`` what was measured, and with it when, where, by which command and versions.

    Returns:
        The whole record.
    """
    options = ["PEER_PYTHON" if one == peer_python else one for one in sys.argv[1:]]
    if "--results" in options:  # Where it was put is nobody's business.
        at = options.index("--results")
        options = options[:at] + options[at + 2 :]
    head = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks", *options]),
        "machine": machine(),
        "versions": versions(peer_python),
    }
    whole = head | record
    rows = [json.dumps(one) for one in [*read(benchmark, folder), whole]]  # A run a line, so that changes are read.
    write_text(folder / f"{benchmark}.json", "[\n" + ",\n".join(rows) + "\n]\n")
    return whole


def show(record: dict[str, Any]) -> None:
    """The record for people: machine, versions, work, then each side and the ratios."""
    print(f"{record['machine']}; {', '.join(f'{name} {one}' for name, one in record['versions'].items())}")
    print(", ".join(f"{name} {value}" for name, value in record["work"].items()))
    for name, side in record.get("sides", {}).items():
        one = side["seconds"]
        print(f"  {name}: {1e3 * one['median']:,.1f} ms ({1e3 * one['low']:,.1f} to {1e3 * one['high']:,.1f})")
    for name, ratio in record.get("ratios", {}).items():
        clock, cpu = ratio["clock"], ratio["cpu"]
        print(f"  time of {name} over ours: {clock['median']:.2f} ({clock['low']:.2f} to {clock['high']:.2f})", end="")
        print(f", of the processor {cpu['median']:.2f}")
    if "apart" in record:
        print(f"  outputs differ by {record['apart']:.1e} at most, relatively")
