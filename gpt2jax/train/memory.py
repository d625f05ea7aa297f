"""What a training step will need of each device's memory, by formula: said before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp

from gpt2jax import lora
from gpt2jax.attention import NATIVE, QUERY_BLOCK, choose, goes_by_heads
from gpt2jax.chips import known_chip
from gpt2jax.config import Config
from gpt2jax.partition import Partition, local_bytes, one_device
from gpt2jax.train.step import abstract_state

GIB = 2**30

# What the backward pass of one block works with, in arrays [tokens, D], whole ones and those that tensor cuts, and in
# attention weights.
_WORK = {"none": (8, 16, 2.5), "attention": (7, 15, 1.5), "dots": (6, 13, 2.0), "full": (9, 20, 3.0)}


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

    At the peak there are the state and the most of three: what the forward pass keeps of every block and what the loss
    works with; the same and what the backward pass of one block works with, beside the gradients; at the end, when
    nothing is kept any more, the gradients and several of the token table.

    ``python -m tests.train.test_memory`` holds it against what XLA's compiler for CPU counts in float32, for small
    models with and without adapters: it came to 0.95 to 1.09 of that. What the backward pass works with (``_WORK``) was
    found by such comparisons. GPUs and TPUs were not measured: their compilers fuse more, and may keep a copy of all
    kernels in bfloat16.
    """
    model, training = config.model, config.training
    state = abstract_state(config, place)
    learned, held = lora.split(state.params)
    adapters = config.lora.rank > 0
    platform = place.mesh.devices.flat[0].platform
    dtype = jnp.dtype(NATIVE[platform] if model.compute_dtype == "auto" else model.compute_dtype)
    rows = training.batch_size // training.micro_batches // place.size(place.rules.batch)
    tensor, fsdp = place.size(place.rules.heads), place.size(place.rules.embed)
    width = rows * model.n_ctx * model.n_embd * dtype.itemsize

    def units(whole: int, cut: int) -> int:
        """Bytes of so many arrays [tokens, D], of which tensor cuts some."""
        return whole * width + cut * width // tensor

    # Attention weights of one block; two of each are kept, in float32 and in the compute dtype.
    kernel, _ = choose(model, model.n_ctx, dtype, platform, model.dropout > 0, config.data.document_mask)
    blocks = -(-model.n_ctx // QUERY_BLOCK)
    scores = rows * model.n_head * model.n_ctx**2 * (blocks + 1) // (2 * blocks) // tensor if kernel == "xla" else 0
    # Those of a CPU that goes by heads are not kept.
    by_heads = one_device(place) and not (model.dropout or config.data.document_mask)
    by_heads = by_heads and goes_by_heads(model, rows, model.n_ctx, platform)
    # Whole are the stream twice and two layer norms; cut are query, key, value, the attention's output, and both sides
    # of the GELU, 4 D wide each. Of products alone: the stream, query, key, value, the attention's branch, the GELU's
    # input, and of adapters their own.
    kept = {
        "none": units(4, 12) + scores * (4 + dtype.itemsize) * (not by_heads),
        "attention": units(4, 12),
        "dots": units(2, 7) + adapters * units(1, 7),
        "full": units(1, 0),
    }[model.remat]
    whole, cut, times = _WORK["attention" if by_heads and model.remat == "none" else model.remat]
    work = units(whole + 5 * adapters, cut + 10 * adapters) + times * scores * 4
    if fsdp > 1:  # The largest kernel, gathered, and its gradient before it is cut.
        work += 4 * model.n_embd**2 * (dtype.itemsize + 4) // tensor
    chunk = min(training.loss_chunk, model.n_ctx)
    logits = rows * chunk * model.padded_vocab * 4 // tensor
    table = model.padded_vocab * model.n_embd * 4 // tensor
    gradients, parts, spread = local_bytes(learned), training.micro_batches > 1, place.size(place.rules.batch) > 1
    # The table, gathered and cast for the whole step.
    copies = table * (fsdp > 1) + table * dtype.itemsize // 4 * (dtype.itemsize < 4)
    if adapters:
        loss, backward, end = 2 * logits, gradients + work, 0.0
    else:
        # Logits, their gradient, and the latter's transpose for the table's gradient, which is summed over chunks. With
        # the vocabulary first, as one CPU has it (objective.py), nothing is transposed.
        whole_table = one_device(place) and platform == "cpu" and dtype == jnp.float32
        turned = logits * (not (whole_table and model.padded_vocab > rows * chunk))
        loss = 2 * logits + (turned + 2 * table if chunk < model.n_ctx else max(turned, table))
        backward = gradients + work + table * spread
        # The table's gradients as output and as input; over several devices before and after they are reduced.
        end = gradients - table // fsdp + table * (4 + parts if spread else 3)
    most = max(model.n_layer * kept + copies + max(loss, backward), end)
    return Memory(
        local_bytes(learned) + local_bytes(held),
        local_bytes(state.opt_state),
        gradients * (1 + parts),
        int(max(most - gradients, 0)),
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
