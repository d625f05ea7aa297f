"""``python -m benchmarks growth``: the fit, the rounds, a record at toy size, and the page of it."""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import growth, growth_page, results, slopes, table
from benchmarks.growth_axes import AXES, Point
from tests.helpers import RUNS_CACHE

ROOT = Path(__file__).parents[2]
SIZES = [1, 2, 4, 8, 16]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_an_exact_power_gives_its_slope(power: float) -> None:
    times = [0.003 * size**power for size in SIZES]
    assert slopes.slope(SIZES, times) == pytest.approx(power, abs=1e-12)
    np.testing.assert_allclose(slopes.line(SIZES, times), times)
    assert slopes.slope(SIZES, [*times[:-1], 2 * times[-1]]) > power + 0.1


def test_a_quadratic_is_not_called_linear() -> None:
    """As where a loop over layers copies all of them in every turn, behind a constant cost: the lower half hides it."""
    times = [10.0 + 0.5 * size**2 for size in SIZES]
    half = slopes.upper(len(SIZES))
    assert slopes.slope(SIZES, times) < 1.1
    assert slopes.slope(SIZES[half], times[half]) > 1.4
    linear = [10.0 + 0.5 * size for size in SIZES]
    assert slopes.slope(SIZES[half], linear[half]) < 0.6


def test_the_upper_half_has_three_sizes_where_there_are_three() -> None:
    assert [len(range(count)[slopes.upper(count)]) for count in range(1, 9)] == [1, 2, 3, 3, 3, 3, 4, 4]


def test_the_sizes_of_an_axis_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One size after the other would fit the machine's drift for the size."""
    seen: list[int] = []
    points = [Point(size, seen.append, functools.partial(int, size)) for size in (1, 2, 4)]
    monkeypatch.setattr(growth, "TURN", 0.0)
    found = growth.in_rounds(points, 2)
    assert seen == [1, 1, 2, 2, 4, 4, 1, 2, 4, 1, 2, 4]
    assert found["sizes"] == [1, 2, 4]
    assert [len(times) for times in found["seconds"]] == [2, 2, 2]


def test_growth_measures_and_adds_its_record(tmp_path: Path) -> None:
    axes = ["batch", "sample_cache", "convert", "read"]
    options = ["--size", "toy", "--axes", *axes, "--rounds", "2", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", "growth", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | RUNS_CACHE, check=True, capture_output=True, text=True)
    [record] = json.loads((tmp_path / "growth.json").read_text("utf-8"))
    assert list(record["axes"]) == axes
    assert record["load"] >= 0
    for name, found in record["axes"].items():
        assert len(found["sizes"]) == len(found["seconds"]) == len(found["cpu_seconds"]) == 2
        assert np.min(found["seconds"]) > 0
        assert f"{AXES[name].title}: " in done.stdout
    assert str(tmp_path) not in json.dumps(record)


def record(**powers: float) -> dict[str, Any]:
    axes = {}
    for name, power in powers.items():
        times = [[0.1 * size**power, 0.2 * size**power, 0.3 * size**power] for size in SIZES]
        axes[name] = {"held": {"batch": 4}, "sizes": SIZES, "seconds": times, "cpu_seconds": times}
    return {"work": {"size": "full", "rounds": 3}, "load": 0.5, "axes": axes}


def test_the_page_shows_each_axis_as_last_measured_and_what_is_steep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth_page, "WHY", {"batch": "Known cause."})
    monkeypatch.setattr(growth_page, "MENDED", {"read": "Was opened anew.", "convert": "Not measured."})
    for one in (record(depth=1.5, read=0.0), record(depth=0.9, batch=1.3), record(width=2.5)):
        results.add("growth", one, None, tmp_path)
    table.run(argparse.Namespace(results=tmp_path))
    text = (tmp_path / "growth.md").read_text("utf-8")
    assert "| training step against depth | 1 | 16 blocks | 0.90 |" in text
    assert "1.50" not in text
    assert re.findall(r"\*\*(.+)\.\*\*\n(.+)", text) == [
        ("training step against width", "Not explained yet."),
        ("training step against batch", "Known cause."),
        ("reading data against shards", "Was opened anew."),
    ]
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_without_records_there_is_no_page(tmp_path: Path) -> None:
    growth_page.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_recorded_is_explained_where_it_is_steep() -> None:
    """And nothing else is."""
    found = growth_page.latest(results.FOLDER)
    assert set(growth_page.WHY) == {name for name, (_, one) in found.items() if growth_page.steeper(name, one)}
