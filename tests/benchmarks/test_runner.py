"""``python -m benchmarks``, at toy size and without a peer; the table of its records."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory, results, table, turns
from tests.helpers import RUNS_CACHE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("train", ["--size", "toy", "--steps", "2"]),
        ("generate", ["--size", "toy", "--batch", "2"]),
        ("score", ["--size", "toy", "--stride", "16", "--windows", "2"]),
        ("load", ["--size", "toy"]),
    ],
)
def test_a_verb_measures_and_adds_its_record(verb: str, options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", verb, *options, "--rounds", "2", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | RUNS_CACHE, check=True, capture_output=True, text=True)
    [record] = json.loads((tmp_path / f"{verb}.json").read_text("utf-8"))
    assert record["work"]["size"] == "toy"
    assert record["sides"]["gpt2jax"]["seconds"]["median"] > 0
    assert record["versions"]["jax"] in done.stdout
    assert "gpt2jax: " in done.stdout


def test_memory_is_measured_and_the_policies_take_turns(tmp_path: Path) -> None:
    options = ["--size", "toy", "--mesh", "1", "1", "1", "--remat", "none", "full", "--rounds", "2"]
    command = [sys.executable, "-m", "benchmarks", "memory", *options, "--results", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | RUNS_CACHE, check=True, capture_output=True, text=True)
    [record] = json.loads((tmp_path / "memory.json").read_text("utf-8"))
    for one in record["bytes"].values():
        assert 0 < one["planned_state"] < one["planned"]
        assert 0 < one["measured_state"] < one["measured"]
    assert record["ratios"]["full"]["clock"]["median"] > 0
    text = (tmp_path / "memory.md").read_text("utf-8")
    for remat, one in record["bytes"].items():
        ratio = one["planned"] / one["measured"]
        assert (
            f"| one device | {remat} | {one['planned'] / 2**20:,.1f} | {one['measured'] / 2**20:,.1f} | {ratio:.3f}"
            in text
        )
    assert "## Remat" in text
    assert "## Remat" not in memory.page([untimed(record)])


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("sides", "ratios")}


def test_what_did_other_work_is_not_recorded(tmp_path: Path) -> None:
    """The peer is our own interpreter, which has no torch: it must not pass for one that was measured."""
    options = ["--size", "toy", "--peer", sys.executable, "--rounds", "2", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", "load", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | RUNS_CACHE, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "peer_load.py ended with" in done.stderr
    assert not list(tmp_path.iterdir())


def turn(seconds: float, cpu: float) -> turns.Turn:
    return turns.Turn(seconds, cpu, None)


def test_ratios_are_of_neighbours_in_time() -> None:
    """The machine slows down tenfold half-way: medians of each side would say 1, the ratios say 2."""
    ours, peer = [turn(1, 1), turn(10, 1), turn(10, 1)], [turn(2, 3), turn(20, 3), turn(20, 3)]
    found = turns.compare({"gpt2jax": ours, "other": peer}, 1)
    assert found["ratios"] == {
        "other": {"clock": {"median": 2, "low": 2, "high": 2}, "cpu": {"median": 3, "low": 3, "high": 3}}
    }
    assert found["sides"]["gpt2jax"]["seconds"] == {"median": 10, "low": 1, "high": 10}


def record(size: str, seconds: float, ratio: float) -> dict[str, Any]:
    spread = {"median": ratio, "low": ratio, "high": ratio}
    one = {name: {"median": seconds, "low": seconds, "high": seconds} for name in ("seconds", "cpu_seconds")}
    return {
        "work": {"size": size, "rounds": 5},
        "load": 0.1,
        "sides": {"gpt2jax": one, "torch": one},
        "ratios": {"torch": {"clock": spread, "cpu": spread}},
    }


def test_the_table_shows_the_latest_of_each_work_and_only_what_is_recorded(tmp_path: Path) -> None:
    for size, ratio in (("6x384", 0.61), ("gpt2", 0.72), ("6x384", 0.93)):
        results.add("train", record(size, 1.5, ratio), None, tmp_path)
    text = table.page(table.latest(tmp_path))
    assert "| 0.93 |" in text
    assert "| 0.72 |" in text
    assert "0.61" not in text
    assert "## train" in text
    assert "## generate" not in text
    assert table.draw(table.latest(tmp_path), tmp_path / "measured.png")
    assert (tmp_path / "measured.png").stat().st_size > 1000
    assert not table.draw({}, tmp_path / "none.png")
