"""Who the processes of a run are: found in settings and environments, and never guessed."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from gpt2jax import distributed
from gpt2jax.cluster import Cluster, detect
from gpt2jax.config import DistributedConfig
from gpt2jax.distributed import banner
from gpt2jax.errors import GPT2JaxError
from tests.helpers import free_port

SLURM = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "node[01-02]"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
ALONE = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
SHARED = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
TPU = {"TPU_WORKER_HOSTNAMES": "run-0-0.run,run-0-1.run", "TPU_WORKER_ID": "1"}
SLICES = TPU | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "run-0-0.run"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "a.b:80", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("config", "environment", "cluster"),
    [
        ({}, {}, None),
        ({}, {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({}, {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ({}, VARIABLES, Cluster("environment", "a.b:80", 2, 1)),
        ({}, SLURM, Cluster("Slurm", None, 4, 3)),
        ({}, SLURM | VARIABLES, Cluster("environment", "a.b:80", 2, 1)),
        ({}, OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, Cluster("Open MPI", None, 2, 1)),
        # A task per GPU takes one of those that it sees; one alone on its node, or with GPUs picked for it, all.
        ({}, SHARED | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, Cluster("Slurm", None, 4, 3)),
        ({}, SHARED | {"CUDA_VISIBLE_DEVICES": "1", "SLURM_GPUS_ON_NODE": "2"}, Cluster("Slurm", None, 4, 3, (0,))),
        ({}, ALONE | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, Cluster("Slurm", None, 4, 3, (0, 1))),
        ({}, ALONE | {"CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "1"}, Cluster("Slurm", None, 4, 3)),
        ({}, ALONE, Cluster("Slurm", None, 4, 3)),
        ({}, TPU, Cluster("Cloud TPU", None, 2, 1)),
        ({}, TPU | POD, Cluster("Cloud TPU", None, 2, 1)),
        ({}, SLICES, Cluster("Cloud TPU", None, 6, 5)),
        ({}, SLICES | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, Cluster("Cloud TPU", None, 3, 2)),
        ({}, TPU | {"TPU_PROCESS_ADDRESSES": "a:1,b:1,c:1"}, Cluster("Cloud TPU", None, 3, 1)),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({}, TPU | VARIABLES, Cluster("environment", "a.b:80", 2, 1)),
        ({}, POD | VARIABLES, Cluster("environment", "a.b:80", 2, 1)),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"auto": True}, POD | {"JOB_COMPLETION_INDEX": "1"}, Cluster("jax's own detection")),
        ({"auto": True}, VARIABLES, Cluster("jax's own detection")),
        (
            {"coordinator": "[::1]:9", "processes": 3, "process_id": 0},
            SLURM | VARIABLES,
            Cluster("settings", "[::1]:9", 3, 0),
        ),
    ],
)
def test_who_says_so(config: dict[str, object], environment: dict[str, str], cluster: Cluster | None) -> None:
    assert detect(DistributedConfig(**config), environment) == cluster  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "environment", "message"),
    [
        ({"processes": 2}, {}, "distributed.coordinator and distributed.process_id: not given"),
        ({}, {"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID: not in the environment"),
        ({}, VARIABLES | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID: 'one' in the environment: should be a number"),
        ({}, VARIABLES | {"JAX_PROCESS_ID": "2"}, "process_id: 2 .*: should be below the number of processes, 2"),
        ({}, VARIABLES | {"JAX_COORDINATOR_ADDRESS": "host"}, "coordinator: 'host' .*: should be host:port"),
        ({}, VARIABLES | {"JAX_COORDINATOR_ADDRESS": "host:99999"}, "should be host:port"),
        ({}, OPEN_MPI, "Open MPI: 2 processes, but not where the first of them is: set JAX_COORDINATOR_ADDRESS"),
        ({}, SLURM | {"SLURM_PROCID": ""}, "SLURM_PROCID: '' in the environment"),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID: None in the environment: should be a number"),
        ({}, TPU | {"TPU_WORKER_ID": "2"}, "TPU_WORKER_ID: 2, .* should be below 2 hosts and 1 slices"),
        ({}, TPU | {"MEGASCALE_NUM_SLICES": "3"}, "MEGASCALE_SLICE_ID: None in the environment"),
        ({}, SLICES | {"MEGASCALE_SLICE_ID": "3"}, "MEGASCALE_SLICE_ID: 3: should be below 2 hosts and 3 slices"),
        ({}, {"MEGASCALE_NUM_SLICES": "2"}, "2 slices, but not which hosts they have .*: give --distributed.auto"),
        ({}, POD | {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX: 3: one of several pods, but not of how many"),
    ],
)
def test_what_makes_no_sense_is_refused(config: dict[str, object], environment: dict[str, str], message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        detect(DistributedConfig(**config), environment)  # type: ignore[arg-type]


def test_a_slurm_job_without_srun_is_one_process_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    alone = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    assert detect(DistributedConfig(), alone) is None
    assert "not started by srun: one process" in capsys.readouterr().err


def test_the_first_pod_of_an_indexed_job_is_one_process_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(DistributedConfig(), POD) is None
    assert "note: pod 0 of an indexed Job, of how many the environment does not say" in capsys.readouterr().err
    assert detect(DistributedConfig(), {"JOB_COMPLETION_INDEX": "1"}) is None  # In no pod at all.
    assert capsys.readouterr().err == ""


def test_a_host_of_a_slice_that_knows_of_no_other_does_not_go_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a TPU VM without --distributed.auto, where chips are seen across hosts."""
    distributed.start(DistributedConfig())
    monkeypatch.setattr("jax.process_count", lambda: 4)
    with pytest.raises(GPT2JaxError, match=r"one of the 4 hosts of a TPU slice.*give --distributed.auto"):
        distributed.start(DistributedConfig())


# Jax looks for chips before it believes that this is a TPU host; told not to, it takes what GKE's variables say. With
# those of several slices it has nothing left to ask a metadata server for.
MEET = """
import sys
from gpt2jax.cli.parse import start
from gpt2jax.config import DistributedConfig
start(2, DistributedConfig(timeout=60))
import jax
print("me", jax.process_index(), jax.process_count(), jax.device_count())
"""


def test_two_processes_meet_as_the_hosts_of_two_slices() -> None:
    hosts = {
        "TPU_WORKER_HOSTNAMES": "127.0.0.1",
        "TPU_WORKER_ID": "0",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1",
        "JAX_COORDINATOR_PORT": str(free_port()),
        "JAX_FORCE_TPU_INIT": "1",
    }
    with contextlib.ExitStack() as stack:
        workers = []
        for slice_id in range(2):
            env = os.environ | hosts | {"MEGASCALE_SLICE_ID": str(slice_id)}
            command = [sys.executable, "-c", MEET]
            workers.append(
                stack.enter_context(
                    subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                )
            )
            stack.callback(workers[-1].kill)
        done = [worker.communicate(timeout=90) for worker in workers]
    for index, (output, errors) in enumerate(done):
        assert f"me {index} 2 4" in output, errors
    assert "2 processes (Cloud TPU), 4 devices, 2 on each" in done[0][1]


def test_hosts_of_a_slice_without_a_tpu_in_sight_are_an_error() -> None:
    env = os.environ | TPU
    done = subprocess.run([sys.executable, "-c", MEET], env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "process 1 of 2 (Cloud TPU): the processes cannot meet: jax finds none of them" in done.stderr
    assert "gpt2jax[tpu]" in done.stderr


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_come_are_an_error_not_a_run_of_fewer(process: int) -> None:
    """One of two, alone, the first or the other: it may not train by itself."""
    port = free_port()
    code = (
        "from gpt2jax import distributed; from gpt2jax.config import DistributedConfig;"
        f"distributed.start(DistributedConfig(coordinator='127.0.0.1:{port}', processes=2, process_id={process},"
        "timeout=3)); print('came')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gpt2jax: process {process} of 2 at 127.0.0.1:{port} (settings): not all processes came within 3 s"
        " (distributed.timeout)\n"
    )


def test_the_banner_counts_slices_of_tpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(platform: str) -> str:
        chips = [SimpleNamespace(platform=platform, slice_index=n // 4, device_kind="kind") for n in range(8)]
        monkeypatch.setattr(jax, "devices", lambda: chips)
        return banner("settings")

    assert said("tpu") == "1 processes (settings), 8 devices, 8 on each, in 2 slices: kind"
    assert said("gpu") == "1 processes (settings), 8 devices, 8 on each: kind"
