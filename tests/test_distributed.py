"""Who the processes of a run are: found in settings and environments, and never guessed."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2jax.config import DistributedConfig
from gpt2jax.distributed import Cluster, detect
from gpt2jax.errors import GPT2JaxError

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


def test_processes_that_do_not_come_are_an_error_not_a_run_of_fewer(tmp_path: Path) -> None:
    """One of two, alone: it may not train by itself."""
    code = (
        "import sys; from gpt2jax import distributed; from gpt2jax.config import DistributedConfig;"
        "from gpt2jax.errors import GPT2JaxError\n"
        "try: distributed.start(DistributedConfig(coordinator='127.0.0.1:9', processes=2, process_id=1, timeout=3))\n"
        "except GPT2JaxError as error: print(error); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 2:
        assert "process 1 of 2: the processes at 127.0.0.1:9 (settings) did not come together within 3 s" in done.stdout
    else:  # jax's client ends the process itself, with its own report.
        assert done.returncode < 0
        assert "DEADLINE_EXCEEDED" in done.stderr
