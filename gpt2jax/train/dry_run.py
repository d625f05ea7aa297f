"""What a run would put on each device, without training: shards, their bytes, and what the compiled step needs."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp

from gpt2jax import lora, parameters
from gpt2jax.attention import describe_attention
from gpt2jax.config import Config
from gpt2jax.partition import Partition, local_bytes, whole_parameters
from gpt2jax.program import COLLECTIVES, work
from gpt2jax.train.step import lower_step, make_place

MIB = 2**20


def dry_run(config: Config) -> str:
    """The report; needs the devices of the mesh (``mesh.cpu_devices`` will do) and no data.

    Raises:
        GPT2JaxError: the mesh does not divide the model or the batch.
    """
    place = make_place(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, max_whole=1.0)))
    _, share = whole_parameters(config.model, place)
    limit = config.mesh.max_whole
    refused = f"\nmore than mesh.max_whole ({limit}): training will refuse it" if share > limit else ""
    kernel = describe_attention(config.model, place, config.data.document_mask)
    return f"{shards(config, place)}{refused}\n\nattention: {kernel}\n{step(config, place)}"


def shards(config: Config, place: Partition) -> str:
    """A line for each kind of parameter: shape, mesh axes of each dimension, bytes on each device."""
    lines = [("parameter", "shape", "mesh axes", "MiB per device")]
    for row in (*parameters.TABLE, *lora.rows(config.lora)):
        shape = lora.shape(row, config.lora, config.model)
        sharding = place.sharding(*row.axes)
        size = local_bytes(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding))
        axes = ", ".join(" x ".join(getattr(place.rules, axis)) or "-" for axis in row.axes)
        lines.append((row.path, str(list(shape)), axes, f"{size / MIB:.3f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(
        f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {axes:<{widths[2]}}  {size:>{widths[3]}}"
        for path, shape, axes, size in lines
    )
    whole, share = whole_parameters(config.model, place)
    names = f": {', '.join(whole)}" if whole else ""
    return f"{table}\n\nwhole on every device: {100 * share:.2f} % of the parameters{names}"


def step(config: Config, place: Partition) -> str:
    """What one device holds while the compiled training step runs, and how the devices talk in it."""
    state, lowered = lower_step(config, place)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    sizes = {
        "parameters": local_bytes(state.params),
        "optimizer state": local_bytes(state.opt_state),
        "temporaries of the step": memory.temp_size_in_bytes,
    }
    lines = [f"{name:<24}{size / MIB:>12,.1f} MiB" for name, size in sizes.items()]
    lines.append(f"{'on each device':<24}{sum(sizes.values()) / MIB:>12,.1f} MiB")
    found = collectives(compiled.as_text())
    talk = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"
    return "\n".join([*lines, f"collectives in the step: {talk}"])


def collectives(program: str) -> dict[str, int]:
    """How often each kind runs in a program, given as HLO text."""
    found: Counter[str] = Counter()
    for one in work(program).collectives:
        found[one.kind] += one.count
    return {kind: found[kind] for kind in COLLECTIVES if found[kind]}
