"""The devices that a run takes, and the processes that they belong to."""

import pydantic

from gpt2jax.fields import AxisSize, Count, CountOrZero, Probability, settings


@settings("mesh")
class MeshConfig:
    """Devices along each mesh axis; -1 takes the rest, for one axis at most."""

    data: AxisSize = -1
    """Copies of the parameters, each with its share of the batch."""
    fsdp: AxisSize = 1
    """Shards of parameters and optimizer state, each with its share of the batch."""
    tensor: AxisSize = 1
    """Shards of heads, MLP and vocabulary."""
    max_whole: Probability = 0.02
    """Largest share of the parameters that may be whole on every device although fsdp or tensor is above 1."""
    cpu_devices: CountOrZero = 0
    """Virtual CPU devices of each process to ask for, to try a mesh without one; 0 uses the devices there are."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "MeshConfig":
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for axis, size in sizes.items():
            if size == 0:
                raise ValueError(f"{axis}: 0: should be at least 1, or -1 for the rest of the devices")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"data, fsdp, tensor: {tuple(sizes.values())}: only one axis can be -1")
        return self


@settings("distributed")
class DistributedConfig:
    """Several processes as one program. Slurm, Open MPI, the hosts of TPU slices on GKE and the variables that the
    other launchers set (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID) are found without any of these."""

    coordinator: str | None = None
    """host:port of process 0; goes with processes and process_id."""
    processes: Count | None = None
    """How many there are."""
    process_id: CountOrZero | None = None
    """Which of them this one is, from 0 on."""
    auto: bool = False
    """Let jax find the others, as it can on Cloud TPU VMs; when it cannot, this is an error."""
    timeout: Count = 300
    """Seconds to wait for all processes to come."""
    heartbeat_timeout: Count = 30
    """Seconds of silence after which a process counts as lost, and the others end."""
