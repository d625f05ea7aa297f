"""Checkpoints of our own, as weights to convert and to load."""

import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gpt2jax import checkpoint, lora, parameters
from gpt2jax.base import find_base
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition
from gpt2jax.progress import Report
from gpt2jax.record import Meta
from gpt2jax.weights.arrays import FLOATS, DType, count_non_finite, in_dtype, warn_of_non_finite
from gpt2jax.weights.weights import NO_CHECKSUM, Origin, Weights, unpadded


class StoredWeights(Weights):
    """The parameters of a checkpoint; when read layer by layer, one parameter is on the host at a time.

    Adapters (:mod:`gpt2jax.lora`) are merged into their kernels.
    """

    def __init__(self, path: Path) -> None:
        """Open the newest checkpoint of a run, or one checkpoint.

        Raises:
            GPT2JaxError: there is none.
        """
        folder, step = checkpoint.find(path)
        self.path = folder / str(step)
        meta = checkpoint.read_meta(self.path)
        unknown = None if meta.encoding else "the checkpoint does not say which vocabulary its tokens are of"
        note = NO_CHECKSUM if meta.leaves is None else "the digests of all parameters are compared"
        self.origin = Origin("orbax", str(self.path), meta.model, meta.encoding, (note,), unknown)
        self._adapters = meta.adapters
        self._base = self.path if meta.adapters is None else find_base(self.path, meta.adapters)
        self._lock = threading.Lock()
        self._held: tuple[str, np.ndarray] | None = None

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        with self._lock:
            if self._held is None or self._held[0] != parameter.path:
                self._held = None
                self._held = parameter.path, self._restore(parameter)
            array = self._held[1]
        return array[layer] if parameter.stacked else unpadded(array, parameter, self.config)

    def _restore(self, parameter: Parameter) -> np.ndarray:
        array = checkpoint.restore_array(self._base, parameter.path)
        if self._adapters is None or parameter not in lora.targets(self._adapters.config):
            return array
        path = f"{lora.KEY}/{parameter.path.removesuffix('/kernel')}"
        a, b = (checkpoint.restore_array(self.path, f"{path}/{name}") for name in ("a", "b"))
        return array + lora.delta(a, b, self._adapters.config)

    def load(
        self,
        place: Partition,
        config: ModelConfig,
        dtype: Callable[[Parameter], DType],
        report: Report,
        stacked: bool,
        turned: bool = False,
    ) -> Params:
        """Read straight to the shards, all parameters at once, where shapes are those on disk."""
        if config.n_ctx != self.config.n_ctx or not stacked or turned or self._adapters is not None:
            return super().load(place, config, dtype, report, stacked, turned)
        abstract = parameters.tree(
            lambda row: jax.ShapeDtypeStruct(
                parameters.shape(row, config), FLOATS[dtype(row)], sharding=place.sharding(*row.axes)
            )
        )
        params = checkpoint.restore_params(self.path, abstract)
        for row in parameters.TABLE:
            leaf = parameters.at(params, row)
            count = sum(count_non_finite(np.asarray(piece.data)) for piece in leaf.addressable_shards)
            warn_of_non_finite({"": count}, in_dtype(row.path, dtype(row)), self.origin.where)
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        report(total, total)
        return params


def write_orbax(weights: Weights, folder: Path, place: Partition, dtype: DType, report: Report) -> None:
    """Write the parameters as a checkpoint of step 0, to start training from or to generate with."""
    params = weights.load(place, weights.config, lambda _: dtype, report, stacked=True)
    checkpoint.save_params(folder, params, Meta(0, weights.config, weights.origin.encoding))
