"""What a training step will need of each device's memory, by formula: said before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp

from gpt2jax import lora
from gpt2jax.attention import NATIVE, QUERY_BLOCK, choose, goes_by_heads
from gpt2jax.chips import known_chip
from gpt2jax.config import Config
from gpt2jax.partition import Partition, local_bytes
from gpt2jax.train.step import abstract_state

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    parameters: int
    optimizer: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.gradients + self.activations


def estimate(config: Config, place: Partition) -> Memory:
    """An estimate from shapes alone; nothing is compiled and no memory is taken.

    ``python -m tests.train.test_memory`` holds it against what XLA's compiler for CPU counts, for small models with and
    without adapters: it came to 0.65 to 1.46 of that (0.84 to 1.10 without adapters). GPUs and TPUs were not measured.
    """
    model, training = config.model, config.training
    state = abstract_state(config, place)
    learned, held = lora.split(state.params)
    platform = place.mesh.devices.flat[0].platform
    dtype = jnp.dtype(NATIVE[platform] if model.compute_dtype == "auto" else model.compute_dtype)
    rows = training.batch_size // training.micro_batches // place.size(place.rules.batch)
    tensor = place.size(place.rules.heads)
    tokens = rows * model.n_ctx
    # What the backward pass needs of each block, in units of [tokens, D]: whole are the stream twice and two layer
    # norms; cut by tensor are query, key, value, the attention's output, and both sides of the GELU, 4 D wide each.
    # One block more is what the backward pass works on.
    kernel, _ = choose(model, model.n_ctx, dtype, platform, model.dropout > 0, config.data.document_mask)
    blocks = -(-model.n_ctx // QUERY_BLOCK)
    weights = rows * model.n_head * model.n_ctx**2 * (blocks + 1) // (2 * blocks) // tensor if kernel == "xla" else 0
    # Those of a CPU that goes by heads are not kept either.
    by_heads = place.mesh.size == 1 and not (model.dropout or config.data.document_mask)
    by_heads = by_heads and goes_by_heads(model, rows, model.n_ctx, platform)
    width = model.n_embd * tokens
    block = (4 * width + 12 * width // tensor) * dtype.itemsize + weights * (4 + dtype.itemsize)
    kept = {
        "none": block - by_heads * weights * (4 + dtype.itemsize),
        "attention": block - weights * (4 + dtype.itemsize),
        "dots": (3 * width + 8 * width // tensor) * dtype.itemsize,
        "full": width * dtype.itemsize,
    }[model.remat]
    chunk = min(training.loss_chunk, model.n_ctx)
    logits = 3 * rows * chunk * model.padded_vocab * 4 // tensor
    table = model.padded_vocab * model.n_embd * (4 + dtype.itemsize) // tensor
    gradients = local_bytes(learned) * (2 if training.micro_batches > 1 else 1)
    return Memory(
        local_bytes(learned) + local_bytes(held),
        local_bytes(state.opt_state),
        gradients,
        model.n_layer * kept + block + logits + table,
    )


def memory_line(config: Config, place: Partition) -> str:
    """The estimate in one line, against what the device has where that is known."""
    memory, device = estimate(config, place), place.mesh.devices.flat[0]
    parts = ", ".join(
        f"{name} {size / GIB:.2f}"
        for name, size in (
            ("parameters", memory.parameters),
            ("optimizer", memory.optimizer),
            ("gradients", memory.gradients),
            ("activations", memory.activations),
        )
    )
    line = f"memory, estimated: {memory.total / GIB:.2f} GiB on each device ({parts})"
    room = _room(device)
    if room is None:
        return line
    line += f" of {room / GIB:.2f}"
    if memory.total > room:
        adapters = ", lora.rank 8" if config.training.init_from and not config.lora.rank else ""
        line += f"; likely too much: try more training.micro_batches, model.remat full, a smaller model.n_ctx{adapters}"
    return line


def _room(device: jax.Device) -> float | None:
    """Bytes that a device has for us, where it or our list of chips says."""
    if device.platform == "cpu":
        return None
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        return float(limit)
    chip = known_chip(device.device_kind)
    return chip.memory_gib * GIB if chip else None
