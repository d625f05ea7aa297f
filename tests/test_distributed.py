"""Who the processes of a run are: found in settings and environments, and never guessed."""

import subprocess
import sys

import pytest

from gpt2jax.config import DistributedConfig
from gpt2jax.distributed import Cluster, detect
from gpt2jax.errors import GPT2JaxError
from tests.helpers import free_port

SLURM = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "node[01-02]"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
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
    ],
)
def test_what_makes_no_sense_is_refused(config: dict[str, object], environment: dict[str, str], message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        detect(DistributedConfig(**config), environment)  # type: ignore[arg-type]


def test_a_slurm_job_without_srun_is_one_process_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    alone = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    assert detect(DistributedConfig(), alone) is None
    assert "not started by srun: one process" in capsys.readouterr().err


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
