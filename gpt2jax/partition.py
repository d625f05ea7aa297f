"""Where arrays live: the device mesh, the rules from logical axes to mesh axes, and what follows from them."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2jax import parameters
from gpt2jax.config import MeshConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError

AXES = ("data", "fsdp", "tensor")

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Mesh axes of each logical axis; an empty tuple replicates.

    The batch is spread over ``data`` and ``fsdp``. Kernels are cut along the model width over ``fsdp`` (gathered
    for use, layer by layer) and along heads or MLP over ``tensor`` (computed in place). The token table is cut along
    the vocabulary over both, so that its padded 128 n rows, not the width that activations contract with, divide.
    ``sequence`` is positions of the residual stream between blocks.
    """

    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = ()
    sequence: MeshAxes = ()
    vocab: MeshAxes = ("tensor", "fsdp")
    logits: MeshAxes = ("tensor",)
    position: MeshAxes = ()
    table: MeshAxes = ()
    embed: MeshAxes = ("fsdp",)
    model: MeshAxes = ()
    qkv: MeshAxes = ()
    heads: MeshAxes = ("tensor",)
    head_dim: MeshAxes = ()
    mlp: MeshAxes = ("tensor",)
    rank: MeshAxes = ()
    layers: MeshAxes = ()

    def spec(self, *axes: str | None) -> PartitionSpec:
        """The partition of an array with these logical axes (None: replicated)."""
        return PartitionSpec(*[(getattr(self, axis) or None) if axis else None for axis in axes])


@dataclasses.dataclass(frozen=True)
class Partition:
    """A mesh and its rules. Hashable, so it can be a static argument of a jitted function."""

    mesh: Mesh
    rules: Rules = Rules()

    def sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, self.rules.spec(*axes))

    def constrain(self, array: jax.Array, *axes: str | None) -> jax.Array:
        """Pin ``array`` to the rules inside a jitted function. The mesh is explicit: without one in context, Flax's
        ``with_logical_constraint`` would silently do nothing."""
        return jax.lax.with_sharding_constraint(array, self.sharding(*axes))

    def params(self) -> parameters.Params:
        """The sharding of every parameter."""
        return parameters.tree(lambda parameter: self.sharding(*parameter.axes))

    def size(self, mesh_axes: MeshAxes) -> int:
        return int(np.prod([self.mesh.shape[axis] for axis in mesh_axes], dtype=int))

    def by_layers(self, axes: tuple[str, ...], layers: int) -> list[NamedSharding]:
        """The shardings by which an array with these logical axes, the layers first, comes to be cut along its layers
        alone, over as many devices as divide them.

        One mesh axis moves at a time, which is an all-to-all or a slice: all at once, the compiler gathers the array.
        """
        some = itertools.chain.from_iterable(itertools.combinations(AXES, count) for count in range(len(AXES) + 1))
        spread = max((chosen for chosen in some if layers % self.size(chosen) == 0), key=self.size)
        now = [getattr(self.rules, axis) for axis in axes]
        path = [self.sharding(*axes)]
        for moved in (*(axis for axis in AXES if axis not in spread), *reversed(spread)):
            now = [tuple(axis for axis in over if axis != moved) for over in now]
            now[0] += (moved,) if moved in spread else ()
            path.append(NamedSharding(self.mesh, PartitionSpec(*[over or None for over in now])))
        return path

    def check(self, config: ModelConfig, batch: int | None = None) -> None:
        """Refuse sizes that the mesh does not divide, before anything is compiled.

        Args:
            batch: sequences computed at once, over all devices.
        """
        sizes = dict(parameters.axis_sizes(config))
        if batch is not None:
            sizes |= {"batch": batch, "sequence": config.n_ctx}
        for axis, size in sizes.items():
            over = getattr(self.rules, axis)
            if size % self.size(over):
                names = " x ".join(f"{name} ({self.mesh.shape[name]})" for name in over)
                advice = self._advice(sizes) if "tensor" in over and self.mesh.shape["tensor"] > 1 else ""
                raise GPT2JaxError(f"{axis}: {size}: should be a multiple of the mesh's {names}{advice}")

    def _advice(self, sizes: dict[str, int]) -> str:
        """The sizes of ``tensor`` that divide everything it cuts; the tables of some models leave only 1."""
        cut = [axis for axis in sizes if "tensor" in getattr(self.rules, axis)]
        rest = {axis: self.size(getattr(self.rules, axis)) // self.mesh.shape["tensor"] for axis in cut}
        allowed = [
            str(tensor)
            for tensor in range(1, min(sizes[axis] for axis in cut) + 1)
            if not any(sizes[axis] % (tensor * rest[axis]) for axis in cut)
        ]
        return f"; mesh.tensor can be {', '.join(allowed)} here; mesh.fsdp does not cut heads" if allowed else ""


def one_device(partition: Partition | None) -> bool:
    """Whether one device computes all: there is no mesh, or one of a single device."""
    return partition is None or partition.mesh.size == 1


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over ``devices`` (default: all there are), with ``-1`` resolved.

    Raises:
        GPT2JaxError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: getattr(config, axis) for axis in AXES}
    known = int(np.prod([size for size in sizes.values() if size != -1], dtype=int))
    sizes = {axis: len(devices) // known if size == -1 else size for axis, size in sizes.items()}
    if int(np.prod(list(sizes.values()), dtype=int)) != len(devices):
        wanted = ", ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        raise GPT2JaxError(f"mesh: {wanted}: should multiply to the number of devices, which is {len(devices)}")
    # Auto: the compiler places what the rules leave open. (jax.make_mesh would default to Explicit axes.)
    return Mesh(arrange(devices, tuple(sizes.values())), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_count(devices: Sequence[Any]) -> int:
    """Of TPUs. GPUs have slice indices too, a node each, but the order of their processes puts nodes side by side."""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", None) or 0 for device in devices})


def arrange(devices: Sequence[Any], sizes: tuple[int, ...]) -> np.ndarray:
    """Devices as an array of these sizes, neighbours in it near each other in the machine.

    In a TPU's torus each mesh axis gets whole rings where it can. ``data``, which exchanges least, goes across slices,
    and, as the outermost axis of devices in the order of their processes, across GPU nodes; the others stay inside.

    Raises:
        GPT2JaxError: ``data`` is not a multiple of the number of slices.
    """
    slices = slice_count(devices)
    if sizes[0] % slices:
        raise GPT2JaxError(f"mesh.data: {sizes[0]}: should be a multiple of the number of slices, which is {slices}")
    inside = (sizes[0] // slices, *sizes[1:])

    def build(split: bool) -> np.ndarray:
        if slices == 1:
            return mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=split)
        across = (slices, *[1] * (len(sizes) - 1))
        return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=split)

    try:
        return build(split=False)
    except NotImplementedError:  # Some axis is no product of the torus's: parts of a ring must do.
        return build(split=True)


def whole_parameters(config: ModelConfig, place: Partition) -> tuple[list[str], float]:
    """Parameters that every device holds whole although ``fsdp`` or ``tensor`` could cut them, and their share of
    all bytes."""
    if place.size(("fsdp", "tensor")) == 1:
        return [], 0.0
    sizes = {row.path: int(np.prod(parameters.shape(row, config))) for row in parameters.TABLE}
    cut = {axis for axis in ("fsdp", "tensor") if place.mesh.shape[axis] > 1}
    whole = [
        row.path for row in parameters.TABLE if not any(cut & set(getattr(place.rules, axis)) for axis in row.axes)
    ]
    return whole, sum(sizes[path] for path in whole) / sum(sizes.values())


def check_whole(config: ModelConfig, place: Partition, limit: float) -> None:
    """Refuse a mesh that leaves more than ``limit`` of the parameters whole on every device.

    Raises:
        GPT2JaxError: naming them.
    """
    whole, share = whole_parameters(config, place)
    if share > limit:
        raise GPT2JaxError(
            f"mesh.max_whole: {limit}: {share:.3f} of the parameters would be whole on every device"
            f" ({', '.join(whole)}); allow it, or leave mesh.fsdp and mesh.tensor at 1"
        )


def like(abstract: Any, abstract_params: parameters.Params, params: parameters.Params, default: NamedSharding) -> Any:
    """A sharding for every leaf of ``abstract``, an optimizer state or the like.

    A leaf whose path ends as a parameter's path does, and whose shape is that parameter's, lives where the parameter
    lives (moments beside their parameter); every other leaf lives at ``default``.
    """
    table = {
        tuple(map(str, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract_params), jax.tree.leaves(params), strict=True
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = tuple(map(str, path))
        for start in range(len(keys)):
            if keys[start:] in table and table[keys[start:]][0] == leaf.shape:
                return table[keys[start:]][1]
        return default

    return jax.tree_util.tree_map_with_path(place, abstract)


def local_bytes(tree: Any) -> int:
    """Of one device's shards of abstract arrays with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for length in leaf.sharding.shard_shape(leaf.shape):
            size *= length
        total += size
    return total


def init_params(key: jax.Array, config: ModelConfig, partition: Partition) -> parameters.Params:
    """Fresh parameters, each shard made on the device where it stays."""
    make = jax.jit(parameters.init, static_argnames="config", out_shardings=partition.params())
    return make(key, config=config)
