"""A model's parameters wherever they lie, read one layer at a time; and from there into arrays on a mesh.

Every reader of this room makes a :class:`Weights`, every writer takes one, so that any pair of formats converts with
one layer in memory, and any format is loaded straight to the shards of any mesh.
"""

import abc
import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import numpy as np
import tiktoken

from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition
from gpt2jax.progress import Report, bar
from gpt2jax.weights.arrays import (
    FLOATS,
    DType,
    aligned_empty,
    contiguous,
    copy,
    count_non_finite,
    in_dtype,
    warn_of_non_finite,
)
from gpt2jax.weights.layout import Layout
from gpt2jax.weights.mapped import MappedFile, Tensor

# Threads that read at once. One alone waits for each page of a file that is not in memory yet.
READERS = 4

# First and last, exclusive, of each axis of an array.
Ranges = tuple[tuple[int, int], ...]

NO_CHECKSUM = "the format carries no checksum: damage inside the numbers would not be noticed"
ZIP_CHECKSUM = "the checksums (CRC-32) of all tensors are compared"

Format = Literal["orbax", "huggingface", "openai", "nanogpt", "llmc"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is known of weights beside their values."""

    format: str
    where: str
    """The folder or file that they were read from."""
    config: ModelConfig
    encoding: tiktoken.Encoding | None
    """None where the source does not say which vocabulary its tokens are of."""
    notes: tuple[str, ...] = ()
    """What a user should know of how they were read: no checksum, rows left out."""
    vocabulary_note: str | None = None
    """Why the encoding is what it is, where that is not plain."""

    def all_notes(self) -> tuple[str, ...]:
        return self.notes if self.vocabulary_note is None else (*self.notes, self.vocabulary_note)


class Weights(abc.ABC):
    """Parameters that can be read one layer at a time."""

    origin: Origin

    @property
    def config(self) -> ModelConfig:
        return self.origin.config

    @abc.abstractmethod
    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        """One layer of a parameter (``layer`` is 0 where it has none), in the table's axes without the layers'.

        The vocabulary is unpadded. The dtype is the source's; the array may be a view of it, to be read only. Several
        threads may call this at once.

        Raises:
            GPT2JaxError: the source turns out damaged.
        """

    def load(
        self,
        place: Partition,
        config: ModelConfig,
        dtype: Callable[[Parameter], DType],
        report: Report,
        stacked: bool,
        turned: bool = False,
    ) -> Params:
        """What :func:`load_params` does, for a ``config`` that fits."""
        total = sum(
            math.prod(parameters.shape(parameter, config)) * FLOATS[dtype(parameter)].itemsize
            for parameter in parameters.TABLE
        )
        done = 0

        rows = parameters.TURNED if turned else parameters.TABLE
        of = {row.path: parameter for row, parameter in zip(rows, parameters.TABLE, strict=True)}

        def array(row: Parameter, layers: tuple[int, int] | None, counts: collections.Counter[int]) -> jax.Array:
            """All of a parameter, or one layer of it."""
            parameter, shape, axes = of[row.path], parameters.shape(row, config), row.axes
            before: Ranges = ()
            if layers is not None:
                shape, axes, before = shape[1:], axes[1:], (layers,)
            filled: dict[Ranges, np.ndarray] = {}

            def shard(index: tuple[slice, ...] | None) -> np.ndarray:
                slices = index or (slice(None),) * len(shape)
                ranges = tuple(part.indices(size)[:2] for part, size in zip(slices, shape, strict=True))
                if ranges not in filled:  # Devices that hold the same shard share one reading.
                    array = _fill(self, parameter, (*before, *ranges), dtype(parameter), readers, counts, turned)
                    filled[ranges] = array[0] if before else array
                return filled[ranges]

            return jax.make_array_from_callback(shape, place.sharding(*axes), shard, dtype=FLOATS[dtype(parameter)])

        def leaf(row: Parameter) -> jax.Array | list[jax.Array]:
            nonlocal done
            parameter = of[row.path]
            counts: collections.Counter[int] = collections.Counter()
            if stacked or not parameter.stacked:
                made: jax.Array | list[jax.Array] = array(row, None, counts)
            else:
                made = [array(row, (layer, layer + 1), counts) for layer in range(config.n_layer)]
            self.release()
            name = in_dtype(parameter.path, dtype(parameter))
            warn_of_non_finite(_by_layer(parameter, counts), name, self.origin.where)
            done += math.prod(parameters.shape(parameter, config)) * FLOATS[dtype(parameter)].itemsize
            report(done, total)
            return made

        with ThreadPoolExecutor(READERS, "weights") as readers:
            params = parameters.tree(leaf, rows)
        return params if stacked else parameters.unstack(params, config)

    def release(self) -> None:  # noqa: B027 (only what maps files has something to let go of)
        """Let go of memory that reading has taken; called between parameters."""


@dataclasses.dataclass(frozen=True)
class ForeignWeights(Weights):
    """Weights in the tensors of a foreign file."""

    origin: Origin
    layout: Layout
    tensors: Mapping[str, Tensor]
    files: Sequence[MappedFile]

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        array = self.tensors[self.layout.name(parameter).format(i=layer)].read()
        return self.layout.to_native(array, parameter, self.config)

    def release(self) -> None:
        for file in self.files:
            file.release()


@dataclasses.dataclass(frozen=True)
class HeldWeights(Weights):
    """Weights that are arrays already, on whatever mesh."""

    origin: Origin
    params: Params

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        leaf = parameters.at(self.params, parameter)
        return unpadded(np.asarray(leaf[layer] if parameter.stacked else leaf), parameter, self.config)


def unpadded(array: np.ndarray, parameter: Parameter, config: ModelConfig) -> np.ndarray:
    """``array`` without the rows that pad the vocabulary."""
    return array[: config.n_vocab] if parameter.axes[0] == "vocab" else array


def foreign_layer(weights: Weights, layout: Layout, parameter: Parameter, layer: int, dtype: DType) -> np.ndarray:
    """One layer of a parameter as a foreign tensor of ``dtype``, contiguous, to be written."""
    native = weights.read(parameter, layer)
    array = contiguous(layout.to_foreign(native, parameter, weights.config), dtype)
    counts = collections.Counter({layer: count_non_finite(array)})
    warn_of_non_finite(_by_layer(parameter, counts), in_dtype(parameter.path, dtype), weights.origin.where)
    return array


def _by_layer(parameter: Parameter, counts: Mapping[int, int]) -> dict[str, int]:
    return {f"layer {layer}" if parameter.stacked else "": count for layer, count in sorted(counts.items())}


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout, config: ModelConfig, where: str) -> None:
    """Refuse tensors that are not this model's, naming each that is missing, unknown, misshapen or no float.

    Raises:
        GPT2JaxError: with all faults in its line.
    """
    faults, wanted = [], set()
    for name, parameter, _ in layout.names(config):
        wanted.add(name)
        tensor, shape = tensors.get(name), layout.shape(parameter, config)
        if tensor is None:
            faults.append(f"{name} is missing")
        elif tensor.shape != shape:
            faults.append(f"{name} has shape {list(tensor.shape)} instead of {list(shape)}")
        elif tensor.dtype not in FLOATS:
            faults.append(f"{name} is {tensor.dtype} instead of {', '.join(FLOATS)}")
    faults += [f"{name} is unknown" for name in tensors if name not in wanted]
    if faults:
        raise GPT2JaxError(f"{where}: {'; '.join(faults)}")


def load_params(
    weights: Weights,
    place: Partition,
    config: ModelConfig | None = None,
    dtype: DType | Callable[[Parameter], DType] = "float32",
    progress: Report | bool = True,
    stacked: bool = True,
    turned: bool = False,
) -> Params:
    """The parameters on a mesh: each shard is filled from the source, one layer after the other.

    Beside the parameters themselves the host holds one of them at most, and no device more than its shards.

    Args:
        config: the model to make; by default the source's own. It may have a shorter context, whose positions are
            the first ones.
        dtype: of the parameters, or a function that says it of each. Training computes with float32 ones.
        progress: a function to call with the bytes of parameters loaded and in all, or whether to draw a bar when
            stderr is a terminal.
        stacked: whether the layers of the blocks are one array, as in training, or ``h`` is a list of blocks, as in
            decoding (:func:`gpt2jax.parameters.unstack`).
        turned: whether kernels have their outputs first and are those of :data:`gpt2jax.parameters.TURNED`.

    Raises:
        GPT2JaxError: ``config`` is another model's, the mesh does not divide it, or the source turns out damaged.
    """
    config = config or weights.config
    check_same_model(config, weights.origin)
    place.check(config)
    with bar("Loading", progress) as report:
        return weights.load(place, config, dtype if callable(dtype) else lambda _: dtype, report, stacked, turned)


def check_same_model(config: ModelConfig, origin: Origin) -> None:
    """Refuse to use weights as parameters of another model; a shorter context is none.

    Raises:
        GPT2JaxError: with everything that differs in its line.
    """
    faults = [
        f"model.{name}: {getattr(config, name)}: the weights have {getattr(origin.config, name)}"
        for name in ("n_vocab", "n_embd", "n_head", "n_layer", "layer_norm_epsilon")
        if getattr(config, name) != getattr(origin.config, name)
    ]
    if config.n_ctx > origin.config.n_ctx:
        faults.append(f"model.n_ctx: {config.n_ctx}: the weights have {origin.config.n_ctx}")
    if faults:
        raise GPT2JaxError(f"{origin.where}: {'; '.join(faults)}")


def _fill(
    weights: Weights,
    parameter: Parameter,
    ranges: Ranges,
    dtype: DType,
    readers: ThreadPoolExecutor,
    counts: collections.Counter[int],
    turned: bool,
) -> np.ndarray:
    """One shard: the given range of each axis of a parameter; rows that pad the vocabulary are 0.

    ``counts`` gets, by layer, how many values are not finite. With ``turned``, ``ranges`` and result have a kernel's
    outputs before its inputs.
    """
    out = aligned_empty(tuple(stop - start for start, stop in ranges), dtype)
    inner = tuple(slice(*part) for part in ranges[int(parameter.stacked) :])
    ins = parameter.inputs if turned else 0
    inner = inner[len(inner) - ins :] + inner[: len(inner) - ins]
    layers = range(*ranges[0]) if parameter.stacked else range(1)
    blocks = READERS if len(layers) == 1 else 1

    def read(job: tuple[int, int]) -> int:
        """Fill a layer, or a block of rows where there is one layer; how many values in it are not finite."""
        layer, block = job
        target = out[layer - layers.start] if parameter.stacked else out
        source = np.moveaxis(weights.read(parameter, layer)[inner], range(ins), range(-ins, 0))
        target[len(source) :] = 0.0
        rows = slice(block * len(source) // blocks, (block + 1) * len(source) // blocks)
        copy(target[rows], source[rows])
        return count_non_finite(target[rows])

    jobs = [(layer, block) for layer in layers for block in range(blocks)]
    for (layer, _), count in zip(jobs, readers.map(read, jobs), strict=True):
        counts[layer] += count
    return out
