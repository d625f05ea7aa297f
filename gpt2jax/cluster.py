"""Who the processes of a program are, from settings and environments alone: nothing is asked over a network.

Half of what is needed is an error, never one process. Two environments may mean one process or several, and are taken
for one with a note: a Slurm job of several tasks outside of srun, and the first pod of an indexed Job.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping

from gpt2jax.config import DistributedConfig
from gpt2jax.errors import GPT2JaxError

# What launch/local.sh and the other launchers set; those of other JAX programs use the same names.
COORDINATOR, PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What is known of the processes before they meet."""

    source: str
    """Who says so."""
    coordinator: str | None = None
    """host:port of process 0; None leaves it to jax, which knows how ``source`` says it."""
    processes: int | None = None
    process_id: int | None = None
    devices: tuple[int, ...] | None = None
    """Which of the GPUs that this process sees are its own; None leaves it to jax."""


def detect(config: DistributedConfig, environment: Mapping[str, str]) -> Cluster | None:
    """The processes that settings or, without any, the environment tell of; None when there is one.

    Raises:
        GPT2JaxError: half of what is needed is there, or a number that is none.
    """
    given = {name: getattr(config, name) for name in ("coordinator", "processes", "process_id")}
    if any(value is not None for value in given.values()):
        missing = [f"distributed.{name}" for name, value in given.items() if value is None]
        if missing:
            raise GPT2JaxError(f"{' and '.join(missing)}: not given: coordinator, processes and process_id go together")
        return _checked(Cluster("settings", **given))
    if config.auto:
        return Cluster("jax's own detection")
    if any(name in environment for name in (COORDINATOR, PROCESSES, PROCESS_ID)):
        missing = [name for name in (COORDINATOR, PROCESSES, PROCESS_ID) if name not in environment]
        if missing:
            raise GPT2JaxError(
                f"{' and '.join(missing)}: not in the environment: {COORDINATOR}, {PROCESSES} and {PROCESS_ID} go"
                " together"
            )
        processes, process_id = _number(environment, PROCESSES), _number(environment, PROCESS_ID)
        return _checked(Cluster("environment", environment[COORDINATOR], processes, process_id))
    if "SLURM_JOB_ID" in environment and _number(environment, "SLURM_NTASKS", 1) > 1:
        return _slurm(environment)
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        return _open_mpi(environment)
    slices = _cloud_tpu(environment)
    if slices is None:
        _check_pod(environment)
    return slices


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    if "SLURM_STEP_NODELIST" not in environment:  # In the batch script itself, or in salloc's shell.
        print("gpt2jax: note: a Slurm job of several tasks, but not started by srun: one process", file=sys.stderr)
        return None
    tasks, rank = _number(environment, "SLURM_NTASKS"), _number(environment, "SLURM_PROCID")
    # jax gives task i of a node GPU i and no other, which is right for a task per GPU that sees them all. A task that
    # has the node for itself, or GPUs that Slurm picked for it, uses all that it sees.
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    count = len(visible.split(",")) if visible else 0
    alone = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")) is not None
    picked = count < _number(environment, "SLURM_GPUS_ON_NODE", count)
    whole = count and (alone or picked) and "JAX_LOCAL_DEVICE_IDS" not in environment
    return Cluster("Slurm", None, tasks, rank, tuple(range(count)) if whole else None)


def _open_mpi(environment: Mapping[str, str]) -> Cluster:
    size, rank = _number(environment, "OMPI_COMM_WORLD_SIZE"), _number(environment, "OMPI_COMM_WORLD_RANK")
    if "OMPI_MCA_orte_hnp_uri" not in environment:
        raise GPT2JaxError(
            f"Open MPI: {size} processes, but not where the first of them is: set {COORDINATOR} (host:port), and"
            f" {PROCESSES} and {PROCESS_ID} from OMPI_COMM_WORLD_SIZE and OMPI_COMM_WORLD_RANK"
        )
    return Cluster("Open MPI", None, size, rank)


def _cloud_tpu(environment: Mapping[str, str]) -> Cluster | None:
    """The hosts of TPU slices, as GKE's variables have them; a process for each.

    A TPU VM outside of GKE has them in its metadata server alone, which only ``distributed.auto`` asks.
    """
    listed = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    hosts = len(listed.split(",")) if listed else 0
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if slices > 1 and not hosts:
        raise GPT2JaxError(
            f"MEGASCALE_NUM_SLICES: {slices} slices, but not which hosts they have (TPU_WORKER_HOSTNAMES): give"
            " --distributed.auto to have jax ask for them"
        )
    if hosts * slices <= 1:
        return None
    # jax numbers them in this way too, and :func:`gpt2jax.distributed.start` compares.
    worker = _number(environment, "TPU_WORKER_ID")
    slice_id = _number(environment, "MEGASCALE_SLICE_ID") if slices > 1 else 0
    if worker >= hosts or slice_id >= slices:
        raise GPT2JaxError(
            f"TPU_WORKER_ID: {worker}, MEGASCALE_SLICE_ID: {slice_id}: should be below {hosts} hosts and {slices}"
            " slices"
        )
    return Cluster("Cloud TPU", None, hosts * slices, slice_id * hosts + worker)


def _check_pod(environment: Mapping[str, str]) -> None:
    """A pod of an indexed Job (those of a JobSet are) knows its number, but not of how many.

    Pod 0 may be the only one, and then it is one process. Any other is one of several for certain: that it ends with
    an error fails the Job, and pod 0 with it.
    """
    index = _number(environment, "JOB_COMPLETION_INDEX", -1)
    if index < 0 or "KUBERNETES_SERVICE_HOST" not in environment:
        return
    how = f"set {COORDINATOR} (host:port of pod 0), {PROCESSES} and {PROCESS_ID}, as launch/gke_gpu.yaml does"
    if index == 0:
        print(
            f"gpt2jax: note: pod 0 of an indexed Job, of how many the environment does not say: one process; {how}"
            " where there are more",
            file=sys.stderr,
        )
        return
    raise GPT2JaxError(
        f"JOB_COMPLETION_INDEX: {index}: one of several pods, but not of how many: {how} ({PROCESSES}=1 and"
        f" {PROCESS_ID}=0 where each pod is a run of its own)"
    )


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name)
    if value is None and default is not None:
        return default
    if value is None or not value.isdecimal():
        raise GPT2JaxError(f"{name}: {value!r} in the environment: should be a number")
    return int(value)


def _checked(cluster: Cluster) -> Cluster:
    host, _, port = str(cluster.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise GPT2JaxError(f"coordinator: {cluster.coordinator!r} ({cluster.source}): should be host:port")
    assert cluster.processes is not None
    assert cluster.process_id is not None
    if not 0 <= cluster.process_id < cluster.processes:
        raise GPT2JaxError(
            f"process_id: {cluster.process_id} ({cluster.source}): should be below the number of processes,"
            f" {cluster.processes}"
        )
    return cluster
