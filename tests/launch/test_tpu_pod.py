"""launch/tpu_pod.sh with a gcloud whose slice is two folders on this machine: a host's home each, a bucket for both."""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import free_port
from tests.launch.helpers import ENDLESS, LAUNCH, Imitation, prepare_folder, run

SCRIPT = str(LAUNCH / "tpu_pod.sh")

# The hosts know of each other as two slices of one host, which jax finds without a metadata server to ask.
GCLOUD = """
import shutil, subprocess
hosts = [os.path.join("{folder}", "host%d" % number) for number in range(2)]
option = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
chosen = [0, 1] if option.get("--worker") == "all" else [int(option.get("--worker", 0))]
verb = arguments[3]
if verb == "describe":
    with open(os.path.join("{folder}", "states")) as file:
        states = file.read().split()
    print(states[0])
    if len(states) > 1:
        with open(os.path.join("{folder}", "states"), "w") as file:
            file.write(" ".join(states[1:]))
elif verb == "scp":
    for number in chosen:
        shutil.copy(arguments[4], os.path.join(hosts[number], arguments[5].split(":")[1]))
elif verb == "ssh":
    status = 0
    for number in chosen:
        env = os.environ | {{"HOME": hosts[number], "MEGASCALE_SLICE_ID": str(number)}}
        status |= subprocess.run(["bash", "-c", option["--command"]], cwd=hosts[number], env=env).returncode
    sys.exit(status)
"""
GCSFUSE = """
os.rmdir(arguments[-1])
os.symlink("{folder}/bucket", arguments[-1])
"""
METADATA = {
    "TPU_WORKER_HOSTNAMES": "127.0.0.1",
    "TPU_WORKER_ID": "0",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1",
    "JAX_FORCE_TPU_INIT": "1",
}


@pytest.fixture
def cloud(tmp_path: Path) -> Imitation:
    imitation = Imitation(tmp_path)
    imitation.add("gcloud", GCLOUD.format(folder=tmp_path))
    imitation.add("gcsfuse", GCSFUSE.format(folder=tmp_path))
    imitation.add("uv")
    imitation.add("mountpoint", "sys.exit(not os.path.islink(arguments[-1]))")
    for host in ("host0", "host1", "bucket"):
        (tmp_path / host).mkdir()
    (tmp_path / "states").write_text("ACTIVE")
    return imitation


@contextlib.contextmanager
def ended(folder: Path) -> Iterator[None]:
    """Whatever happens, no run outlives the test."""
    try:
        yield
    finally:
        for host in ("host0", "host1"):
            pid, status = folder / host / "gpt2jax" / "run.pid", folder / host / "gpt2jax" / "run.status"
            if pid.exists() and not status.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)


def test_a_run_is_copied_started_once_stopped_and_tells_how_it_ended(tmp_path: Path, cloud: Imitation) -> None:
    prepare_folder(tmp_path / "bucket")
    env = cloud.environment(BUCKET="shared", JAX_COORDINATOR_PORT=str(free_port()), **METADATA)
    train = ["gpt2jax", "train", "bucket/settings.yaml", "--data.path", "bucket/shards"]
    with ended(tmp_path):
        done = run([SCRIPT, "copy"], tmp_path, env)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "host1" / "gpt2jax" / "gpt2jax" / "cluster.py").exists()
        assert [call[:2] for call in cloud.calls("uv")] == [["venv", "--quiet"], ["pip", "install"]] * 2
        assert cloud.calls("gcsfuse") == [["--implicit-dirs", "--metadata-cache-ttl-secs=0", "shared", "bucket"]] * 2

        start = [SCRIPT, "run", *train, "--training.run-dir", "bucket/run", *ENDLESS]
        done = run(start, tmp_path, env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(": started") == 2
        deadline = time.monotonic() + 180
        while not (tmp_path / "bucket/run/checkpoints/4/state").exists() and time.monotonic() < deadline:
            assert run([SCRIPT, "status"], tmp_path, env).stdout.count(": running") == 2, log(tmp_path)
            time.sleep(0.3)
        again = run(start, tmp_path, env)
        assert (again.returncode, again.stderr.count("runs already: stop it first")) == (1, 2)

        assert run([SCRIPT, "stop"], tmp_path, env).returncode == 0
        while run([SCRIPT, "status"], tmp_path, env).stdout.count(": ended with status 75") < 2:
            assert time.monotonic() < deadline, log(tmp_path)
            time.sleep(0.3)
    assert "2 processes (jax's own detection), 4 devices, 2 on each" in log(tmp_path)
    assert "by SIGTERM; resume with: gpt2jax train --resume bucket/run" in log(tmp_path)
    assert run([SCRIPT, "stop"], tmp_path, env).stdout.count(": no run") == 2


def log(folder: Path) -> str:
    return (folder / "host0" / "gpt2jax" / "run.log").read_text()


def test_creating_waits_until_the_slice_is_there(tmp_path: Path, cloud: Imitation) -> None:
    (tmp_path / "states").write_text("WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    env = cloud.environment(POLL_SECONDS="0", SPOT="1", NAME="mine", TYPE="v5litepod-16", EXTRA="--reserved --async")
    done = run([SCRIPT, "create"], tmp_path, env)
    assert done.returncode == 0
    wanted = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    assert done.stderr == "".join(f"tpu_pod.sh: mine is {state}\n" for state in wanted)
    assert cloud.calls("gcloud")[0] == [
        *("compute", "tpus", "queued-resources", "create", "mine", "--node-id=mine", "--zone=us-east5-b"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"),
        *("--spot", "--reserved", "--async"),
    ]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_slice_that_will_not_come_is_said(tmp_path: Path, cloud: Imitation, state: str) -> None:
    (tmp_path / "states").write_text(state)
    done = run([SCRIPT, "create"], tmp_path, cloud.environment())
    assert done.returncode == 2
    assert done.stderr.endswith(f"tpu_pod.sh: gpt2jax: {state}: delete it, and create it again\n")


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        (["create"], ["queued-resources create gpt2jax --node-id=gpt2jax", "queued-resources describe gpt2jax"]),
        (["copy"], ["tpu-vm scp /tmp/gpt2jax.tar.gz gpt2jax:gpt2jax.tar.gz", "tpu-vm ssh gpt2jax"]),
        (["run", "gpt2jax", "train", "x.yaml"], ["tpu-vm ssh gpt2jax"]),
        (["logs"], ["tpu-vm ssh gpt2jax"]),
        (["status"], ["queued-resources describe gpt2jax", "tpu-vm ssh gpt2jax"]),
        (["stop"], ["tpu-vm ssh gpt2jax"]),
        (["delete"], ["queued-resources delete gpt2jax --zone=us-east5-b --force --quiet"]),
    ],
)
def test_a_dry_run_prints_every_command_and_calls_none(
    tmp_path: Path, cloud: Imitation, verb: list[str], wanted: list[str]
) -> None:
    done = run([SCRIPT, "--dry-run", *verb], tmp_path, cloud.environment())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(wanted)
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(f"gcloud compute tpus {start}")
        assert "--zone=us-east5-b" in shlex.split(line)
    assert cloud.calls("gcloud") == []


def test_jax_is_told_to_ask_for_the_hosts_unless_the_command_says_where_they_are(
    tmp_path: Path, cloud: Imitation
) -> None:
    for command, asked in (
        (["gpt2jax", "train", "a b.yaml"], True),
        (["gpt2jax", "train", "x.yaml", "--distributed.auto"], False),
        (["gpt2jax", "info"], False),
    ):
        done = run([SCRIPT, "--dry-run", "run", *command], tmp_path, cloud.environment())
        remote = shlex.split(done.stdout)[-1]
        assert f"run {shlex.join(command)}".replace("'a b.yaml'", "a\\ b.yaml") in remote
        assert remote.count("--distributed.auto") == (asked or "--distributed.auto" in command)


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        (["begin"], {}, "begin: unknown (create, copy, run, logs, status, stop or delete)"),
        (["run"], {}, "run: nothing to run: launch/tpu_pod.sh run gpt2jax train SETTINGS.yaml"),
        (["create", "now"], {}, "create: now: takes no arguments"),
        (["create"], {"TYPE": "v99-8"}, "TYPE: 'v99-8': no runtime is known for it: give VERSION"),
        (["create"], {"SPOT": "yes"}, "SPOT: 'yes': should be 0 or 1"),
        (["create"], {"NAME": "a;b"}, "NAME: 'a;b': should be lower-case letters, digits and dashes"),
        (["copy"], {"BUCKET": "gs://b"}, "BUCKET: 'gs://b': should be the name of a bucket, without gs://"),
        (["logs"], {"WORKER": "all"}, "WORKER: 'all': should be a number"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tmp_path: Path, cloud: Imitation, arguments: list[str], variables: dict[str, str], line: str
) -> None:
    done = run([SCRIPT, *arguments], tmp_path, cloud.environment(**variables))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"tpu_pod.sh: {line}")
    assert cloud.calls("gcloud") == []
