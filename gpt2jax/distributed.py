"""Several processes as one program: who they are, and that all of them are there.

Nothing here falls back: where settings or the environment say that there are several processes, either all of them
come together or the program ends with a line that says why.
"""

import dataclasses
import os
import sys
import threading
from collections.abc import Mapping

import jax

from gpt2jax.config import DistributedConfig
from gpt2jax.errors import GPT2JaxError

# What launch/local.sh sets; other launchers of JAX programs use the same names.
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
        if "SLURM_STEP_NODELIST" not in environment:  # In the batch script itself, or in salloc's shell.
            print("gpt2jax: note: a Slurm job of several tasks, but not started by srun: one process", file=sys.stderr)
            return None
        return Cluster("Slurm", None, _number(environment, "SLURM_NTASKS"), _number(environment, "SLURM_PROCID"))
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        size, rank = _number(environment, "OMPI_COMM_WORLD_SIZE"), _number(environment, "OMPI_COMM_WORLD_RANK")
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise GPT2JaxError(
                f"Open MPI: {size} processes, but not where the first of them is: set {COORDINATOR} (host:port), and"
                f" {PROCESSES} and {PROCESS_ID} from OMPI_COMM_WORLD_SIZE and OMPI_COMM_WORLD_RANK"
            )
        return Cluster("Open MPI", None, size, rank)
    return None


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


def start(config: DistributedConfig) -> None:
    """Meet the other processes, if there are any: once, before any array is made. Process 0 says who came.

    When they have not all come within ``config.timeout`` seconds, this process ends with a line and status 2.

    Raises:
        GPT2JaxError: settings or environment make no sense, or jax cannot find the others with them.
    """
    cluster = detect(config, os.environ)
    if cluster is None:
        return
    # When jax's own time is up its client aborts the process from C++: ours is up first.
    alarm = threading.Timer(config.timeout, _give_up, [cluster, config.timeout])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            coordinator_address=cluster.coordinator,
            num_processes=cluster.processes if cluster.coordinator else None,
            process_id=cluster.process_id if cluster.coordinator else None,
            cluster_detection_method="deactivate" if cluster.coordinator else None,
            initialization_timeout=config.timeout + 60,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GPT2JaxError(f"{_where(cluster)}: the processes cannot meet: {reason}") from None
    finally:
        alarm.cancel()
    if cluster.processes not in (None, jax.process_count()):
        raise GPT2JaxError(f"{cluster.source}: {cluster.processes} processes, but {jax.process_count()} came")
    if is_primary():
        print(banner(cluster.source), file=sys.stderr, flush=True)


def _where(cluster: Cluster) -> str:
    who = "distributed" if cluster.process_id is None else f"process {cluster.process_id} of {cluster.processes}"
    at = f" at {cluster.coordinator}" if cluster.coordinator else ""
    return f"{who}{at} ({cluster.source})"


def _give_up(cluster: Cluster, timeout: int) -> None:
    line = f"{_where(cluster)}: not all processes came within {timeout} s (distributed.timeout)"
    print(f"gpt2jax: {line}", file=sys.stderr, flush=True)
    os._exit(2)


def banner(source: str) -> str:
    devices = jax.devices()
    return (
        f"{jax.process_count()} processes ({source}), {len(devices)} devices, {jax.local_device_count()} on each:"
        f" {devices[0].device_kind}"
    )


def is_primary() -> bool:
    """Whether this process is the one that writes logs and talks."""
    return jax.process_index() == 0


def lost(error: BaseException) -> str | None:
    """One line for an error that another process's end has caused; None for any other."""
    text = str(error)
    signs = (
        "Gloo",
        "heartbeat",
        "Connection reset",
        "Connection closed",
        "coordination service",
        "UNAVAILABLE",
        "NCCL",
    )
    if jax.process_count() == 1 or not any(sign in text for sign in signs):
        return None
    return (
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run has ended or cannot be"
        f" reached ({text.strip().splitlines()[0][:200]}); start all of them again: the run goes on from its last"
        " checkpoint"
    )
