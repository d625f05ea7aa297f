"""What all scripts of launch/ have in common, and local.sh, which tests/train/test_processes.py runs in earnest."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.helpers import LAUNCH, run

SCRIPTS = sorted(LAUNCH.glob("*.sh"))
SHELLCHECK = str(Path(sys.executable).parent / "shellcheck")
LOCAL = str(LAUNCH / "local.sh")
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_and_says_what_it_needs_and_how_it_stops(script: Path, tmp_path: Path) -> None:
    for command in (["bash", "-n", str(script)], [SHELLCHECK, str(script)]):
        done = run(command, tmp_path, ENVIRONMENT)
        assert done.returncode == 0, done.stdout + done.stderr
    told = run([str(script), "--help"], tmp_path, ENVIRONMENT)
    assert told.returncode == 0
    assert all(word in told.stdout.lower() for word in ("needs", "stop", "--dry-run", f"launch/{script.name}"))


def test_shellcheck_notices_what_bash_lets_pass(tmp_path: Path) -> None:
    broken = tmp_path / "slurm.sh"
    broken.write_text(
        (LAUNCH / "slurm.sh").read_text().replace('scancel --signal=TERM "$SLURM_JOB_ID"', "scancel $JOB")
    )
    assert run(["bash", "-n", str(broken)], tmp_path, ENVIRONMENT).returncode == 0
    done = run([SHELLCHECK, str(broken)], tmp_path, ENVIRONMENT)
    assert done.returncode == 1
    assert "SC2086" in done.stdout


@pytest.mark.parametrize("name", ["gke_gpu.yaml", "gke_tpu.yaml", "sky.yaml", "sky_tpu.yaml", "Dockerfile"])
def test_a_manifest_begins_by_saying_how_it_is_used(name: str) -> None:
    header = (LAUNCH / name).read_text().split("\napiVersion")[0].split("\nname:")[0].split("\nFROM")[0]
    assert header.startswith("# ")
    if name.startswith("sky"):
        assert all(word in header for word in ("Needs:", "Stop:", "--dryrun"))
    elif name.startswith("gke"):
        assert "launch/gke.sh --dry-run apply" in header


def test_local_processes_are_numbered_and_told_where_to_meet(tmp_path: Path) -> None:
    done = run([LOCAL, "--dry-run", "2", "gpt2jax", "info"], tmp_path, ENVIRONMENT | {"PORT": "4000"})
    assert done.stdout.splitlines() == [
        f"JAX_COORDINATOR_ADDRESS=127.0.0.1:4000 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={number} gpt2jax info"
        for number in range(2)
    ]


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "true"], ["two", "true"]])
def test_local_says_how_it_is_used(tmp_path: Path, arguments: list[str]) -> None:
    done = run([LOCAL, *arguments], tmp_path, ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "launch/local.sh 2 gpt2jax train" in done.stderr


def test_local_ends_with_the_status_of_its_processes_and_not_of_a_signal(tmp_path: Path) -> None:
    """Also where they end as soon as they are told, before anybody waits for them again."""
    code = "touch started$JAX_PROCESS_ID; exec sleep 60"
    for _ in range(10):
        with subprocess.Popen([LOCAL, "2", "bash", "-c", code], cwd=tmp_path, env=ENVIRONMENT) as script:
            started = [tmp_path / f"started{number}" for number in range(2)]
            deadline = time.monotonic() + 60
            while not all(path.exists() for path in started) and time.monotonic() < deadline:
                time.sleep(0.01)
            script.send_signal(signal.SIGINT)
            assert script.wait(timeout=60) == 128 + signal.SIGTERM  # Which is what local.sh sends them.
        for path in started:
            path.unlink()
