"""What a run would put on each device, without training: shards, their bytes, and what the compiled step needs."""

import re
from collections import Counter

import jax
import jax.numpy as jnp

from gpt2jax import parameters
from gpt2jax.config import Config
from gpt2jax.partition import Partition, make_mesh, whole_parameters
from gpt2jax.train.step import abstract_state, make_train_step

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
MIB = 2**20


def dry_run(config: Config) -> str:
    """The report; needs the devices of the mesh (``mesh.cpu_devices`` will do) and no data.

    Raises:
        GPT2JaxError: the mesh does not divide the model or the batch.
    """
    place = Partition(make_mesh(config.mesh))
    place.check(config.model, batch=config.training.batch_size // config.training.micro_batches)
    return f"{shards(config, place)}\n\n{step(config, place)}"


def shards(config: Config, place: Partition) -> str:
    """A line for each kind of parameter: shape, mesh axes of each dimension, bytes on each device."""
    lines = [("parameter", "shape", "mesh axes", "MiB per device")]
    for row in parameters.TABLE:
        shape = parameters.shape(row, config.model)
        sharding = place.sharding(*row.axes)
        size = _bytes(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding))
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
    state = abstract_state(config, place)
    parts = config.training.micro_batches
    shape = (parts, config.training.batch_size // parts, config.model.n_ctx + 1)
    windows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place.sharding(None, "batch", None))
    compiled = make_train_step(config, place).lower(state, windows).compile()  # type: ignore[attr-defined]
    memory = compiled.memory_analysis()
    sizes = {
        "parameters": sum(map(_bytes, jax.tree.leaves(state.params))),
        "optimizer state": sum(map(_bytes, jax.tree.leaves(state.opt_state))),
        "temporaries of the step": memory.temp_size_in_bytes,
    }
    lines = [f"{name:<24}{size / MIB:>12,.1f} MiB" for name, size in sizes.items()]
    lines.append(f"{'on each device':<24}{sum(sizes.values()) / MIB:>12,.1f} MiB")
    found = collectives(compiled.as_text())
    talk = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"
    return "\n".join([*lines, f"collectives in the step: {talk}"])


def collectives(program: str) -> dict[str, int]:
    """How many of each kind stand in an HLO text; those in a loop count once."""
    # Between the name and the operation stands the result's shape, of a tuple with comments in it.
    pattern = rf"^ *(?:ROOT )?%?[\w.-]+ = .*? ({'|'.join(COLLECTIVES)})(?:-start)?\("
    found = Counter(re.findall(pattern, program, re.MULTILINE))
    return {kind: found[kind] for kind in COLLECTIVES if found[kind]}


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Of one device's shard."""
    size: int = leaf.dtype.itemsize
    for length in leaf.sharding.shard_shape(leaf.shape):
        size *= length
    return size
