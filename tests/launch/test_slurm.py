"""launch/slurm.sh, run as sbatch would run it, with an srun that starts the tasks on this machine."""

import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch.helpers import ENDLESS, LAUNCH, TRAIN, Imitation, prepare_folder, run

SCRIPT = str(LAUNCH / "slurm.sh")

# Two tasks with the variables that srun sets; its status is the highest of theirs, as srun's.
SRUN = """
import subprocess
while arguments and arguments[0].startswith("-"):
    arguments.pop(0)
tasks = []
for rank in range(2):
    step = {"SLURM_NTASKS": "2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    log = open(f"task{rank}.log", "a")
    tasks.append(subprocess.Popen(arguments, env=os.environ | step, stdout=log, stderr=log))
with open("tasks.pid", "w") as pids:
    pids.write(" ".join(str(task.pid) for task in tasks))
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCANCEL = """
import signal
for pid in open("tasks.pid").read().split():
    try:
        os.kill(int(pid), signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_folder(tmp_path_factory.mktemp("slurm"))


@pytest.fixture
def slurm(tmp_path: Path) -> Imitation:
    imitation = Imitation(tmp_path)
    imitation.add("srun", SRUN)
    imitation.add("scancel", SCANCEL)
    imitation.add("scontrol")
    imitation.add("squeue", "print('RUNNING')")
    return imitation


def job_id() -> str:
    """A job whose port, which jax derives from its number, is free."""
    while True:
        number = random.randrange(4096)
        with socket.socket() as probe:
            try:
                probe.bind(("", 65536 - 4096 + number))
            except OSError:
                continue
            return str(number)


def tasks(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "tasks.pid").read_text().split()]


def logs(folder: Path) -> str:
    return "".join((folder / f"task{rank}.log").read_text() for rank in range(2))


def test_a_job_trains_as_two_processes_and_ends_for_good(folder: Path, slurm: Imitation) -> None:
    command = [SCRIPT, *TRAIN, "--training.run-dir", "whole"]
    done = run(command, folder, slurm.environment(SLURM_JOB_ID=job_id(), SLURM_CPUS_PER_TASK="3"))
    assert done.returncode == 0, done.stderr + logs(folder)
    assert slurm.calls("srun") == [["--label", "--kill-on-bad-exit=0", "--cpus-per-task=3", *command[1:]]]
    assert "2 processes (Slurm), 4 devices, 2 on each" in (folder / "task0.log").read_text()
    assert (folder / "whole" / "report.md").exists()
    assert slurm.calls("scontrol") == slurm.calls("scancel") == []


def test_a_job_whose_time_is_nearly_up_writes_a_checkpoint_and_comes_again(folder: Path, slurm: Imitation) -> None:
    job = job_id()
    command = [SCRIPT, *TRAIN, *ENDLESS, "--training.run-dir", "stopped"]
    env = slurm.environment(SLURM_JOB_ID=job)
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as script:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "stopped" / "checkpoints" / "4" / "state").exists() and time.monotonic() < deadline:
                assert script.poll() is None, logs(folder)
                time.sleep(0.1)
            script.send_signal(signal.SIGUSR1)
            _, errors = script.communicate(timeout=120)
        finally:
            if script.poll() is None:
                for task in tasks(folder):
                    os.kill(task, signal.SIGKILL)
    assert script.returncode == 0, errors + logs(folder)
    assert "resume with: gpt2jax train --resume stopped" in (folder / "task0.log").read_text()
    assert slurm.calls("scancel") == [["--signal=TERM", job]]
    assert slurm.calls("scontrol") == [["requeue", job]]
    assert "goes back into the queue" in errors


def test_tasks_that_one_of_them_has_stopped_come_again_too(tmp_path: Path, slurm: Imitation) -> None:
    """The script got no signal: the node of one task is drained, say."""
    slurm.add("srun", "sys.exit(75)")
    assert run([SCRIPT, "gpt2jax"], tmp_path, slurm.environment(SLURM_JOB_ID="7")).returncode == 0
    assert slurm.calls("scontrol") == [["requeue", "7"]]


# Ends as a run that was stopped does, once scancel has told it.
STOPPED = """
import signal, time
open("tasks.pid", "w").write(str(os.getpid()))
signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))
open("started", "w").close()
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("number", "state", "status", "again"),
    [
        (signal.SIGUSR1, "RUNNING", 75, True),  # Time is nearly up.
        (signal.SIGTERM, "RUNNING", 75, True),  # Preempted.
        (signal.SIGTERM, "COMPLETING", 75, False),  # By scancel.
        (signal.SIGINT, "RUNNING", 75, False),  # By who wants it stopped.
        (signal.SIGUSR1, "RUNNING", 0, False),  # It was at its end.
        (signal.SIGUSR1, "RUNNING", 1, False),  # It failed.
    ],
)
def test_whether_it_comes_again_depends_on_who_stopped_it_and_how_it_ended(
    tmp_path: Path, slurm: Imitation, number: signal.Signals, state: str, status: int, again: bool
) -> None:
    slurm.add("squeue", f"print('{state}')")
    slurm.add("srun", STOPPED.format(status=status))
    env = slurm.environment(SLURM_JOB_ID="7")
    with subprocess.Popen([SCRIPT, "gpt2jax"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as script:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        script.send_signal(number)
        assert script.wait(timeout=30) == (0 if status == 75 else status)
    assert slurm.calls("scancel") == [["--signal=TERM", "7"]]
    assert slurm.calls("scontrol") == ([["requeue", "7"]] if again else [])


def test_a_job_that_fails_is_not_queued_again(tmp_path: Path, slurm: Imitation) -> None:
    done = run([SCRIPT, "gpt2jax", "train", "none.yaml"], tmp_path, slurm.environment(SLURM_JOB_ID="1"))
    assert done.returncode == 2
    assert "none.yaml" in logs(tmp_path)
    assert slurm.calls("scontrol") == []


def test_a_status_of_its_own_is_for_what_was_stopped_and_must_be_one(folder: Path, slurm: Imitation) -> None:
    env = slurm.environment(GPT2JAX_STOPPED_STATUS="later")
    done = run(TRAIN, folder, env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gpt2jax: GPT2JAX_STOPPED_STATUS: 'later' in the environment: should be a number from 0 to 255\n"
    )


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "GPT2JAX_STOPPED_STATUS=75 srun --label --kill-on-bad-exit=0 gpt2jax train a\\ b.yaml "),
        (
            {"CONTAINER": "image.sqsh", "MOUNTS": "/data,/a:/b"},
            "--container-mounts={0}:{0}\\,/data:/data\\,/a:/b --container-workdir={0} gpt2jax train",
        ),
        (
            {"CONTAINER": "image.sif", "MOUNTS": "/data"},
            "exit=0 apptainer exec --nv --bind {0}\\,/data --pwd {0} image.sif gpt2jax train",
        ),
    ],
)
def test_a_dry_run_prints_the_command_and_starts_nothing(
    tmp_path: Path, slurm: Imitation, variables: dict[str, str], wanted: str
) -> None:
    (tmp_path / "image.sif").touch()
    done = run([SCRIPT, "--dry-run", "gpt2jax", "train", "a b.yaml"], tmp_path, slurm.environment(**variables))
    assert done.returncode == 0, done.stderr
    assert wanted.format(tmp_path) in done.stdout
    assert slurm.calls("srun") == []


def test_a_virtual_environment_comes_first_on_the_path(tmp_path: Path, slurm: Imitation) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    slurm.add("srun", "print(os.environ['PATH'])")
    done = run([SCRIPT, "gpt2jax"], tmp_path, slurm.environment(SLURM_JOB_ID="1", VENV="venv"))
    assert done.stdout.startswith(f"{tmp_path}/venv/bin:")


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        ([], {}, "nothing to run: sbatch launch/slurm.sh gpt2jax train SETTINGS.yaml (--help says more)"),
        (["--nodes=2", "gpt2jax"], {}, "--nodes=2: unknown option; those of sbatch stand before the script, .*"),
        (["gpt2jax"], {}, "not in a Slurm job: start it with sbatch, or look with --dry-run"),
        (["--dry-run", "gpt2jax"], {"VENV": "nowhere"}, "VENV: nowhere: no virtual environment"),
        (["--dry-run", "gpt2jax"], {"CONTAINER": "nothing.sif"}, "CONTAINER: nothing.sif: no such file"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tmp_path: Path, slurm: Imitation, arguments: list[str], variables: dict[str, str], line: str
) -> None:
    done = run([SCRIPT, *arguments], tmp_path, slurm.environment(**variables))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"slurm.sh: {line.removesuffix('.*')}")


def test_help_is_the_header(slurm: Imitation, tmp_path: Path) -> None:
    done = run([SCRIPT, "--help"], tmp_path, slurm.environment())
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("Needs:", "Watch:", "Stop:", "sbatch --nodes=4"))
