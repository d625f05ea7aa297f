"""``benchmarks/gpu_suite.sh`` at toy size, on the CPU and without a peer: that it runs, not what it measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def suite(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"TOY": "1", "OUT": str(out), "PEER": ""} | environment
    command = ["bash", str(ROOT / "benchmarks" / "gpu_suite.sh")]
    return subprocess.run(command, env=given, check=False, capture_output=True, text=True)


def test_the_suite_runs_at_toy_size(tmp_path: Path) -> None:
    done = suite(tmp_path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text("utf-8").splitlines()]
    assert [one["part"] for one in found] == ["check", "peak", "train", "sample", "sample", "trial", "trial", "trial"]
    assert set(found[0]["apart"]) == {"forward", "q", "k", "v", "logits", "decoded"}
    assert all(one["seconds"]["median"] > 0 for one in found[2:5])
    assert 0 < found[5]["apart"]["(4, 4, 64)"] < 0.03
    assert [one["by"] for one in found[6:]] == ["xla", "(4, 4, 64)"]


def test_a_part_that_fails_is_told_and_fails_the_suite(tmp_path: Path) -> None:
    done = suite(tmp_path, PYTHON="false")
    assert done.returncode == 1
    assert done.stderr.count("failed (1): false -m benchmarks.gpu") == 4
