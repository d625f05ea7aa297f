"""Several processes as one program: that all of them are there, and how one knows when another is lost.

Nothing here falls back: where settings or the environment say that there are several processes, either all of them
come together or the program ends with a line that says why.
"""

import os
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt2jax.cluster import Cluster, detect
from gpt2jax.config import DistributedConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.partition import slice_count


def start(config: DistributedConfig) -> None:
    """Meet the other processes, if there are any: once, before any array is made. Process 0 says who came.

    When they have not all come within ``config.timeout`` seconds, this process ends with a line and status 2.

    Raises:
        GPT2JaxError: settings or environment make no sense, or jax cannot find the others with them.
    """
    cluster = detect(config, os.environ)
    if cluster is None:
        # The hosts of a TPU slice see each other's chips without ever having met, and then cannot write a checkpoint.
        if jax.process_count() > 1:
            raise GPT2JaxError(
                f"distributed: one of the {jax.process_count()} hosts of a TPU slice, but nothing says where the others"
                " are: give --distributed.auto"
            )
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
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate" if cluster.coordinator else None,
            initialization_timeout=config.timeout + 60,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:  # OSError: jax asked a metadata server that is not there.
        reason = str(error).strip().splitlines()[0]
        if "should be defined" in reason or "must be defined" in reason:  # Jax looked around, and knows no such place.
            reason = f"jax finds none of them ({reason.rstrip('.')})"
            reason += "; is it installed with its TPU library, gpt2jax[tpu]?" if cluster.source == "Cloud TPU" else ""
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
    slices = slice_count(devices)
    return (
        f"{jax.process_count()} processes ({source}), {len(devices)} devices, {jax.local_device_count()} on each"
        f"{f', in {slices} slices' if slices > 1 else ''}: {devices[0].device_kind}"
    )


def is_primary() -> bool:
    """Whether this process is the one that writes logs and talks."""
    return jax.process_index() == 0


def all_agree(good: bool) -> bool:
    """Whether ``good`` holds in every process; all of them wait here for each other."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


def wait_for_all() -> None:
    """Wait until every process has come here."""
    all_agree(True)


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
