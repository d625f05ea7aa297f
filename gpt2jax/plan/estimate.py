"""What a run needs on chips that are not here: the program compiled for them, and its time estimated."""

import dataclasses
import os
import re
from typing import Any

import jax

from gpt2jax import lora
from gpt2jax.attention import describe_attention
from gpt2jax.config import Config, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.kernels import splash_blocks
from gpt2jax.partition import Partition, local_bytes
from gpt2jax.plan import cuda, network
from gpt2jax.plan.topology import Topology, coordinates, devices
from gpt2jax.program import Collective, work
from gpt2jax.train.step import TrainState, lower_step, make_place
from gpt2jax.train.utilization import train_flops_per_token

GPU_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one run of a program: a training step, or the writing of one token in every row. Seconds, and bytes and
    operations of one device unless they say otherwise."""

    config: Config
    topology: Topology
    mesh: dict[str, int]
    own: bool
    """Whether the program is for the topology's own chips, and not for CPU devices in their place."""
    kernel: str
    memory: dict[str, float]
    """Bytes that a device holds, by what they are for."""
    tokens: int
    """Of all devices, in one run."""
    model_flops: float
    """Of all devices: what the model needs, whatever is computed twice."""
    compute_seconds: float
    """All operations, at the peak."""
    memory_seconds: float
    """All traffic to memory, at its peak; for GPUs and where CPU devices stand in, all that is held, moved once."""
    network_seconds: float
    """All exchanges."""
    exposed_seconds: float
    """Exchanges that nothing is computed beside."""
    busy_seconds: float
    """Of computing: by the compiler's own estimate and, for the attention kernel, its operations; the larger of
    compute and memory where the compiler makes none."""
    busy_parts: dict[str, float]
    """What it is busy with, where the compiler says."""
    collectives: tuple[Collective, ...]

    @property
    def total_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def room(self) -> float:
        """Bytes that a device has for us: of a GPU the share that JAX takes, which its variable changes."""
        share = 1.0 if self.topology.chip.torus else float(os.environ.get(GPU_SHARE, "0.75"))
        return share * self.topology.chip.memory_gib * 2**30

    @property
    def fits(self) -> bool:
        """What the compiler for TPU has compiled does."""
        return (self.own and bool(self.topology.chip.torus)) or self.total_bytes <= self.room

    @property
    def seconds(self) -> float:
        return max(self.busy_seconds, self.network_seconds - self.exposed_seconds) + self.exposed_seconds

    @property
    def binds(self) -> str:
        terms = {"compute": self.compute_seconds, "memory": self.memory_seconds, "network": self.network_seconds}
        return max(terms, key=lambda name: terms[name])

    @property
    def mfu(self) -> float:
        peak = self.topology.chip.peak_tflops * 1e12 * self.topology.count
        return self.model_flops / self.seconds / peak

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def plan_model(model: ModelConfig, topology: Topology, own: bool) -> ModelConfig:
    """The model as it would be computed there: ``auto`` becomes what it would be.

    A program for CPU devices that stand in cannot hold the chip's attention kernel; where that would run, attention
    that keeps no weights for the backward pass stands for it.

    Raises:
        GPT2JaxError: a dtype whose peak is not known, or a kernel that the chip does not have.
    """
    if model.compute_dtype == "float32":
        raise GPT2JaxError("model.compute_dtype: 'float32': a plan knows what chips do in bfloat16; leave it at 'auto'")
    model = dataclasses.replace(model, compute_dtype="bfloat16")
    kernel = "splash" if topology.chip.torus else "cudnn"
    if model.attention not in ("auto", "xla", kernel):
        raise GPT2JaxError(f"model.attention: {model.attention!r}: {topology.chip_name} has {kernel}")
    if not _has_kernel(topology):
        if model.attention == kernel:
            raise GPT2JaxError(f"model.attention: {kernel!r}: {topology.chip_name} has none; should be 'auto' or 'xla'")
        return dataclasses.replace(model, attention="xla")
    if own:
        return model
    remat = "attention" if model.remat == "none" and kernel_runs(model, topology) else model.remat
    return dataclasses.replace(model, attention="xla", remat=remat)


def _has_kernel(topology: Topology) -> bool:
    return bool(topology.chip.torus) or cuda.has_cudnn_attention(topology.chip_name)


def kernel_runs(model: ModelConfig, topology: Topology) -> bool:
    """Whether the attention kernel of the topology's chips would, so far as settings tell."""
    return _has_kernel(topology) and model.attention != "xla" and not model.dropout


def plan_training(config: Config, topology: Topology) -> Estimate:
    """Compile the training step for ``topology`` and estimate it.

    Raises:
        GPT2JaxError: no such topology, or the mesh does not divide it, the model or the batch.
    """
    found, own = devices(topology)
    asked = config
    config = dataclasses.replace(config, model=plan_model(config.model, topology, own))
    place = make_place(config, found)
    state, lowered = lower_step(config, place)
    compiled = compile_for(topology, lowered)
    memory = step_memory(state, compiled, own and bool(topology.chip.torus))
    tokens = config.training.batch_size * config.model.n_ctx
    kernel = describe_attention(config.model, place, config.data.document_mask)
    if not own and kernel_runs(asked.model, topology):
        kernel += f", in the place of {'splash' if topology.chip.torus else 'cudnn'}"
    kernel_flops = 0.0
    if kernel.startswith("splash"):
        kernel_flops = _splash_flops(config.model, config.training.batch_size) / topology.count
    return estimate(
        asked, topology, place, own, kernel, compiled, memory, tokens,
        model_flops=tokens * train_flops_per_token(config),
        flops=tokens * _computed_flops_per_token(config) / topology.count,
        kernel_flops=kernel_flops,
    )  # fmt: skip


def compile_for(topology: Topology, lowered: Any) -> Any:
    """The compiled program.

    Raises:
        GPT2JaxError: the compiler finds no way to fit it into the chips' memory.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        raise GPT2JaxError(f"topology: {topology.name!r}: {_too_large(text)}") from None


# Both of the forms in which the compiler for TPU says how much too large a program is.
_SIZES = (
    r"([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)",
    r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm",
)


def _too_large(text: str) -> str:
    found = next((found for found in (re.search(form, text) for form in _SIZES) if found), None)
    if found is None:
        return f"the compiler runs out of memory: {text.strip().splitlines()[0][:300]}"
    needed, room = (
        float(size) * {"K": 2**10, "M": 2**20, "G": 2**30}[unit] / 2**30
        for size, unit in (found.group(1, 2), found.group(3, 4))
    )
    return (
        f"does not fit, by {needed - room:.2f} GiB: the step takes {needed:.2f} GiB of {room:.2f} on each chip; try"
        " more micro-batches (training.micro_batches), model.remat, or --search"
    )


def step_memory(state: TrainState, compiled: Any, tells_peak: bool) -> dict[str, float]:
    """Bytes that a device holds at the peak of a compiled training step, by what they are for.

    A batch of windows and the program itself are left out. ``python -m benchmarks memory`` holds it against what
    processes on virtual CPU devices hold.
    """
    memory: dict[str, float] = {
        "parameters": local_bytes(state.params),
        "optimizer state": local_bytes(state.opt_state),
    }
    memory["activations and temporaries"] = temporary_bytes(compiled, tells_peak, sum(memory.values()))
    return memory


def temporary_bytes(compiled: Any, tells_peak: bool, given: float) -> float:
    """What a program holds at its peak beside the ``given`` bytes that are there before it.

    Args:
        tells_peak: whether it is of the compiler for TPU, which alone says what the peak is. On a GPU the sum of all
            temporaries is what the program takes; on a CPU it counts some that are not there together.
    """
    memory = compiled.memory_analysis()
    return max(memory.peak_memory_in_bytes - given, 0.0) if tells_peak else float(memory.temp_size_in_bytes)


def estimate(
    config: Config,
    topology: Topology,
    place: Partition,
    own: bool,
    kernel: str,
    compiled: Any,
    memory: dict[str, float],
    tokens: int,
    *,
    in_loop: bool = False,
    model_flops: float,
    flops: float,
    kernel_flops: float,
) -> Estimate:
    chip, found = topology.chip, work(compiled.as_text(), in_loop=in_loop)
    places = [coordinates(device, topology, number) for number, device in enumerate(place.mesh.devices.flat)]
    times = [network.seconds(collective, places, topology) for collective in found.collectives]
    # The compiler for CPU fuses less than one for a chip would: its traffic bounds nothing. What is held is moved once;
    # and for GPUs, whose compiler says nothing about time, a bound is all that there is.
    moved = found.memory_bytes if own and chip.torus else sum(memory.values())
    compute, traffic = flops / (chip.peak_tflops * 1e12), moved / (chip.memory_gbs * 1e9)
    busy, parts = max(compute, traffic), {}
    if own and found.cycles:
        # A head narrower than the matrix unit leaves the rest of it idle.
        share = min(1.0, config.model.head_dim / chip.matrix_width)
        hertz = chip.clock_ghz * 1e9
        parts = {
            "products": found.product_cycles / hertz,
            "attention kernel": kernel_flops / (chip.peak_tflops * 1e12 * share),
            "all else": (found.cycles - found.product_cycles) / hertz,
        }
        busy = sum(parts.values())
    return Estimate(
        config=config,
        topology=topology,
        mesh=dict(place.mesh.shape),
        own=own,
        kernel=kernel,
        memory=memory,
        tokens=tokens,
        model_flops=model_flops,
        compute_seconds=compute,
        memory_seconds=traffic,
        network_seconds=sum(times),
        exposed_seconds=sum(time for time, one in zip(times, found.collectives, strict=True) if not one.hidden),
        busy_seconds=busy,
        busy_parts=parts,
        collectives=found.collectives,
    )


def _computed_flops_per_token(config: Config) -> float:
    """Operations of one training token, with what the backward pass computes again and attention as it is causal."""
    model, length = config.model, config.model.n_ctx
    head = 2.0 * model.padded_vocab * model.n_embd
    blocks = 2.0 * 12 * model.n_layer * model.n_embd**2
    attend = 2.0 * model.n_layer * model.n_embd * length  # Two products, half of the positions.
    # A block computed again for its gradient needs all but its last product, a third of the block.
    again = {"none": 0.0, "attention": attend, "dots": attend, "full": blocks * 2 / 3 + attend}[model.remat]
    if not config.lora.rank:
        return 3 * (head + blocks + attend) + again
    # Weights that stay have no gradient; adapters beside them do. (What of these is computed again is left out.)
    return 2 * (head + blocks) + 3 * attend + 6.0 * lora.count(config.lora, model) + again


def _splash_flops(model: ModelConfig, rows: int) -> float:
    """Of splash attention in one step: two products forward, five backward, each block whole that holds a pair."""
    block, keys = splash_blocks(model.n_ctx)

    def pairs(width: int) -> float:
        queries = range(0, model.n_ctx, block)
        return sum(block * width * (1 + (start + block - 1) // width) for start in queries)

    forward = 2 if model.remat in ("none", "attention") else 4
    return 2.0 * rows * model.n_layer * model.n_embd * (forward * pairs(block) + 5 * pairs(keys))
