"""How each foreign format names, orders and shapes the rows of the table of parameters.

A foreign tensor holds one layer of a parameter. Its kernel is a matrix, where ours keeps query, key, value and heads
apart; between the two lie a reshape and, where the format stores [out, in], a transposition: both are views.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Parameter


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and shapes of one format."""

    name: Callable[[Parameter], str]
    """A row's tensor, with ``{i}`` for the layer."""
    kernel: Literal["in,out", "out,in", "1,in,out"]
    """Axes of a kernel's matrix."""

    def names(self, config: ModelConfig) -> Iterator[tuple[str, Parameter, int]]:
        """Every tensor of a model in the order of the table: its name, its row, and its layer (0 without layers)."""
        for parameter in parameters.TABLE:
            for layer in range(config.n_layer if parameter.stacked else 1):
                yield self.name(parameter).format(i=layer), parameter, layer

    def shape(self, parameter: Parameter, config: ModelConfig) -> tuple[int, ...]:
        """Of one layer's tensor. Tables have exactly ``config.n_vocab`` rows: what pads ours never leaves."""
        size = layer_shape(parameter, config)
        if not parameter.inputs:
            return (math.prod(size),) if parameter.stacked else size
        ins, outs = math.prod(size[: parameter.inputs]), math.prod(size[parameter.inputs :])
        return {"in,out": (ins, outs), "out,in": (outs, ins), "1,in,out": (1, ins, outs)}[self.kernel]

    def to_native(self, array: np.ndarray, parameter: Parameter, config: ModelConfig) -> np.ndarray:
        """A foreign tensor with the table's axes (without the layers'): a view."""
        size, inputs = layer_shape(parameter, config), parameter.inputs
        if inputs and self.kernel == "out,in":
            turned = array.reshape(*size[inputs:], *size[:inputs])
            return turned.transpose(*range(len(size) - inputs, len(size)), *range(len(size) - inputs))
        return array.reshape(size)

    def to_foreign(self, array: np.ndarray, parameter: Parameter, config: ModelConfig) -> np.ndarray:
        """One layer in the foreign shape: a view. The reverse of :meth:`to_native`."""
        size, inputs = layer_shape(parameter, config), parameter.inputs
        if inputs and self.kernel == "out,in":
            array = array.reshape(math.prod(size[:inputs]), math.prod(size[inputs:])).T
        return array.reshape(self.shape(parameter, config))


def layer_shape(parameter: Parameter, config: ModelConfig) -> tuple[int, ...]:
    """Shape of one layer of a parameter in the table's axes, with the vocabulary unpadded."""
    size = parameters.shape(parameter, config)[int(parameter.stacked) :]
    return (config.n_vocab, *size[1:]) if parameter.axes[0] == "vocab" else size


def _flax(parameter: Parameter) -> str:
    """Flax names what torch calls weight by its use: ``h/0/ln_1/scale``."""
    *module, leaf = parameter.huggingface.split(".")
    if leaf == "weight":
        leaf = "kernel" if parameter.inputs else "scale" if parameter.init == "ones" else "embedding"
    return "/".join([*module, leaf])


OPENAI = Layout(lambda parameter: parameter.openai, "1,in,out")
HUGGINGFACE = Layout(lambda parameter: parameter.huggingface, "in,out")
# Hugging Face's Flax GPT-2 (transformers 4, modeling_flax_gpt2.py, FlaxConv1D).
FLAX = Layout(_flax, "out,in")
# nanoGPT kept Hugging Face's names and made its Conv1D a Linear (karpathy/nanoGPT, model.py, from_pretrained).
NANOGPT = Layout(lambda parameter: parameter.huggingface, "out,in")
LLMC = Layout(lambda parameter: parameter.llmc + (".{i}" if parameter.stacked else ""), "out,in")
