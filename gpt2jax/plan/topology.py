"""Chips that are not here: what a topology's name means, and devices to compile for.

TPU topologies come from libtpu (extra ``plan``), which knows them without a TPU, and GPUs from jax's plugin for CUDA
(extra ``cuda13``). Without them virtual CPU devices stand in.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
import numpy as np

from gpt2jax.chips import CHIPS, Chip
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.plan import cuda

EXAMPLES = "v5e-256 or v5e:16x16, v5p:8x8x8, h100-64"

# Google's slices by number of chips. v4 and v5p are named for their cores, two on a chip.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_CUBES |= {1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16"}


@dataclasses.dataclass(frozen=True)
class Topology:
    name: str
    chip_name: str
    shape: tuple[int, ...]
    """Of one slice: the torus of a TPU slice; (nodes, GPUs of a node)."""
    slices: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.chip_name]

    @property
    def count(self) -> int:
        return math.prod(self.shape) * self.slices


def parse_topology(name: str, slices: int = 1) -> Topology:
    """``v5e-256`` and ``v5p-512`` as Google names slices, ``v5e:16x16`` by the torus, ``h100-64`` for GPUs.

    Raises:
        GPT2JaxError: no such chip or shape.
    """
    found = re.fullmatch(r"([a-z]\w*(?:-\d+gb)?)(?:-(\d+)|[:=](\d+(?:x\d+)*))", name.lower())
    if not found:
        raise GPT2JaxError(f"topology: {name!r}: should be a chip and how many, say {EXAMPLES}")
    chip_name, number, torus = found.groups()
    chip_name = {"v5litepod": "v5e", "v6": "v6e"}.get(chip_name, chip_name)
    if chip_name not in CHIPS:
        raise GPT2JaxError(f"topology: {name!r}: no chip {chip_name!r} is known ({nearest(chip_name, list(CHIPS))})")
    chip = CHIPS[chip_name]
    if not chip.torus:
        if slices > 1:
            raise GPT2JaxError(f"slices: {slices}: goes with TPUs; of GPUs name them all, say {chip_name}-16")
        return Topology(name, chip_name, _nodes(name, chip, number or torus), slices)
    if number:
        cores = 2 if chip.torus == 3 else 1
        table = _CUBES if chip.torus == 3 else _FLAT
        if int(number) % cores or int(number) // cores not in table:
            sizes = ", ".join(f"{chip_name}-{cores * count}" for count in table)
            raise GPT2JaxError(f"topology: {name!r}: should be one of {sizes}, or a torus, say {chip_name}:{table[16]}")
        torus = table[int(number) // cores]
    shape = tuple(map(int, torus.split("x")))
    if len(shape) != chip.torus:
        raise GPT2JaxError(
            f"topology: {name!r}: {chip_name} has {chip.torus} dimensions, say {chip_name}:"
            + ("16x16" if chip.torus == 2 else "4x4x8")
        )
    odd = [size for size in shape if size < 1 or (size > 2 and size % 4)]
    if odd:
        raise GPT2JaxError(f"topology: {name!r}: {odd[0]}: a side of the torus should be 1, 2 or a multiple of 4")
    return Topology(name, chip_name, shape, slices)


def _nodes(name: str, chip: Chip, number: str) -> tuple[int, int]:
    parts = [int(part) for part in number.split("x")]
    if len(parts) == 2:
        nodes, gpus = parts
    elif len(parts) == 1:
        nodes, gpus = max(1, parts[0] // chip.node), min(parts[0], chip.node)
    if len(parts) > 2 or nodes * gpus != math.prod(parts) or not 0 < gpus <= chip.node:
        raise GPT2JaxError(
            f"topology: {name!r}: should be a number of GPUs up to {chip.node}, a multiple of {chip.node}, or"
            " nodes x GPUs of a node"
        )
    return nodes, gpus


def has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def has_compiler(topology: Topology) -> bool:
    """Whether a compiler for these chips is installed."""
    return has_libtpu() if topology.chip.torus else cuda.compiles_for(topology.chip_name)


def devices(topology: Topology) -> tuple[list[Any], bool]:
    """Devices to compile for, and whether they are the topology's own and not CPU devices that stand in.

    Raises:
        GPT2JaxError: the compiler knows no such topology.
    """
    if not has_compiler(topology):
        return jax.devices()[: topology.count], False
    # A program that no device here can run cannot be read back from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    return (_tpus if topology.chip.torus else _gpus)(topology), True


def _gpus(topology: Topology) -> list[Any]:
    from jax.experimental import topologies

    nodes, gpus = topology.shape
    target = cuda.describe(topology.chip_name, topology.chip)
    try:
        found = topologies.get_topology_desc("", platform="cuda", target_config=target, topology=f"1x{nodes}x{gpus}")
    except Exception as error:  # The plugin's errors share no class of their own.
        reason = str(error).strip().splitlines()[0]
        raise GPT2JaxError(f"topology: {topology.name!r}: jax's plugin for CUDA refuses it: {reason}") from None
    return list(found.devices)


def _tpus(topology: Topology) -> list[Any]:
    # Otherwise libtpu looks for a TPU and the machine that it belongs to, and complains.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # No chip is taken: two plans may run at once.
    from jax.experimental import topologies

    shape = "x".join(map(str, topology.shape))
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if topology.chip_name == "v4":
        options["chip_config_name"] = "megacore"
    try:
        described = topologies.get_topology_desc(f"{topology.chip_name}:{shape}", platform="tpu", **options)
    except Exception as error:  # libtpu's errors share no class of their own.
        reason = str(error).strip().splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise GPT2JaxError(f"topology: {topology.name!r}: libtpu refuses it: {reason}") from None
    if len(described.devices) != topology.count:
        raise GPT2JaxError(
            f"topology: {topology.name!r}: libtpu gives {len(described.devices)} devices for {topology.count} chips"
        )
    return list(described.devices)


def coordinates(device: Any, topology: Topology, number: int) -> tuple[int, ...]:
    """Where a device is: its slice, then its place in the torus; a GPU's node, then which of the node's it is.

    Args:
        number: the device's, which is all that a stand-in has.
    """
    if not topology.chip.torus:
        return divmod(number, topology.shape[1])
    inner = math.prod(topology.shape)
    if hasattr(device, "coords") and device.platform == "tpu":
        return (getattr(device, "slice_index", None) or 0, *device.coords[: len(topology.shape)])
    return (number // inner, *(int(part) for part in np.unravel_index(number % inner, topology.shape)))
