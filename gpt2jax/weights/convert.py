"""From any form of GPT-2 weights to any other."""

import math
from pathlib import Path
from typing import get_args

import jax
import numpy as np

from gpt2jax import parameters
from gpt2jax.config import MeshConfig
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.files import new_file, new_folder, refuse_if_no_space, refuse_occupied
from gpt2jax.parameters import Parameter
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.progress import Report, bar
from gpt2jax.weights.arrays import FLOATS, DType
from gpt2jax.weights.card import card
from gpt2jax.weights.huggingface_export import write_huggingface
from gpt2jax.weights.layout import layer_shape
from gpt2jax.weights.llmc import write_llmc
from gpt2jax.weights.nanogpt import GELU, write_nanogpt
from gpt2jax.weights.openai import write_openai
from gpt2jax.weights.orbax import write_orbax
from gpt2jax.weights.weights import Format, Origin, Weights

# Layer norm's epsilon stands in the other programs' code.
_EPSILON = 1e-5
_RELEASE_BYTES = 256 * 2**20


def convert(
    weights: Weights, target: str | Path, to: Format, dtype: DType = "float32", progress: Report | bool = True
) -> list[str]:
    """Write ``weights`` in another form to ``target``, whole or not at all, with a model card.

    Args:
        target: a new folder; for llm.c a new file, whose card goes beside it (:func:`card_beside`).
        to: ``orbax`` is our own checkpoint.
        dtype: of the numbers in the files; values round to nearest.
        progress: a function to call with the bytes of parameters done and in all, or whether to draw a bar when
            stderr is a terminal.

    Returns:
        What the user should know of what was written, a line each.

    Raises:
        GPT2JaxError: the form cannot hold this model or dtype, ``target`` exists, or the source turns out damaged.
    """
    if to not in get_args(Format):
        raise GPT2JaxError(f"to: {to!r}: unknown ({nearest(to, get_args(Format))})")
    if dtype not in FLOATS:
        raise GPT2JaxError(f"dtype: {dtype!r}: unknown ({nearest(dtype, FLOATS)})")
    target = Path(target)
    refuse_occupied(target)
    if to == "llmc":
        refuse_occupied(card_beside(target))
    notes = _check(weights.origin, target, to)
    refuse_if_no_space(target, parameters.count(weights.config) * FLOATS[dtype].itemsize)
    with bar(f"Writing {target.name}", progress) as report:
        counted = _Counted(weights, report)
        if to == "llmc":
            with new_file(card_beside(target)) as described:
                described.write_text(card(weights, to, dtype, target.name), encoding="utf-8", newline="")
                with new_file(target) as file:
                    write_llmc(counted, file, dtype)
            return notes
        with new_folder(target) as folder:
            match to:
                case "orbax":
                    # Parameters that are files on the host's disk at both ends need no accelerator between.
                    place = Partition(make_mesh(MeshConfig(), jax.devices("cpu")[:1]))
                    write_orbax(weights, folder, place, dtype, report)
                case "huggingface":
                    write_huggingface(counted, folder, dtype)
                case "openai":
                    write_openai(counted, folder, dtype)
                case "nanogpt":
                    write_nanogpt(counted, folder, dtype)
            if to != "huggingface":  # Which has its own, with a head for the Hub.
                (folder / "README.md").write_text(card(weights, to, dtype), encoding="utf-8", newline="")
    return notes


def card_beside(model: Path) -> Path:
    """The model card of a model that is one file."""
    return model.with_name(f"{model.name}.README.md")


def _check(origin: Origin, target: Path, to: Format) -> list[str]:
    """Refuse what ``to`` cannot hold; say what it leaves out."""
    epsilon, encoding = origin.config.layer_norm_epsilon, origin.encoding
    if to in ("openai", "nanogpt", "llmc") and epsilon != _EPSILON:
        raise GPT2JaxError(f"model.layer_norm_epsilon: {epsilon}: should be {_EPSILON}, which {to}'s program has fixed")
    if to == "llmc" and (target.suffix != ".bin" or target.is_dir()):
        raise GPT2JaxError(f"{target}: llm.c's form is one file: should end in .bin, and be no folder")
    gelu = [GELU] if to == "nanogpt" else []
    if to in ("orbax", "huggingface") and encoding is not None:
        return []  # These hold any vocabulary of ours.
    if encoding is None:
        return ["its vocabulary is not known: no files of it were written"] if to in ("huggingface", "openai") else gelu
    held = {"openai": ("gpt2", "bytes"), "nanogpt": ("gpt2", "characters"), "llmc": ("gpt2",)}
    lost = [] if encoding.name in held[to] else [f"{to}'s form has no place for a vocabulary of {encoding.name}"]
    return [*gelu, *lost]


class _Counted(Weights):
    """Weights that report how much of them has been read, and let go of it in between."""

    def __init__(self, weights: Weights, report: Report) -> None:
        self.origin, self._weights, self._report = weights.origin, weights, report
        self._done = self._since = 0
        self._total = 4 * parameters.count(weights.config)

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        if self._since > _RELEASE_BYTES:
            self._weights.release()
            self._since = 0
        array = self._weights.read(parameter, layer)
        size = 4 * math.prod(layer_shape(parameter, self.config))
        self._done, self._since = self._done + size, self._since + size
        self._report(self._done, self._total)
        return array

    def release(self) -> None:
        self._weights.release()
