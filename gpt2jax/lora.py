"""LoRA (Hu et al. 2021): a kernel W computes as W + alpha / rank A B, of which A and B alone are learned.

Adapters lie beside the table's tree under ``lora``, A and B of a kernel under its path: ``lora/h/mlp/c_fc/a``. They are
rows like those of the table, stacked over layers: A has the kernel's inputs and then the rank, B the rank and then its
outputs, each with the kernel's own logical axes, so that meshes cut them as they cut the kernel. B starts at 0, and the
model as it was.

The model computes x A B beside x W: merged into W they would ask for the gradient of W, a third of
a block's products.
"""

import fnmatch
import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import parameters
from gpt2jax.config import LoraConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition

KEY = "lora"


def targets(config: LoraConfig) -> tuple[Parameter, ...]:
    """The kernels that have adapters.

    Raises:
        GPT2JaxError: a pattern is no kernel's.
    """
    kernels = {row.path: row for row in parameters.TABLE if row.inputs}
    chosen: set[str] = set()
    for pattern in config.targets if config.rank else ():
        found = fnmatch.filter(kernels, pattern)
        if not found:
            raise GPT2JaxError(f"lora.targets: {pattern!r}: is no kernel's path ({nearest(pattern, kernels)})")
        chosen.update(found)
    if config.rank and not chosen:
        raise GPT2JaxError("lora.targets: (): should name a kernel")
    return tuple(row for row in parameters.TABLE if row.path in chosen)


def rows(config: LoraConfig) -> tuple[Parameter, ...]:
    """A and B of each target, as rows of a table."""
    made = []
    for row in targets(config):
        path = f"{KEY}/{row.path.removesuffix('/kernel')}"
        ins, outs = row.axes[1 : 1 + row.inputs], row.axes[1 + row.inputs :]
        made.append(Parameter(f"{path}/a", ("layers", *ins, "rank"), "kernel", True, "", "", "", inputs=row.inputs))
        made.append(Parameter(f"{path}/b", ("layers", "rank", *outs), "zeros", True, "", "", "", inputs=1))
    return tuple(made)


def shape(row: Parameter, config: LoraConfig, model: ModelConfig) -> tuple[int, ...]:
    sizes = parameters.axis_sizes(model) | {"rank": config.rank}
    return tuple(sizes[axis] for axis in row.axes)


def abstract(config: LoraConfig, model: ModelConfig) -> Params:
    """Shape and dtype of every adapter, under ``lora``; empty without adapters."""
    return parameters.tree(lambda row: jax.ShapeDtypeStruct(shape(row, config, model), jnp.float32), rows(config))


def shardings(config: LoraConfig, place: Partition) -> Params:
    return parameters.tree(lambda row: place.sharding(*row.axes), rows(config))


def init(key: jax.Array, config: LoraConfig, model: ModelConfig) -> Params:
    """Fresh adapters: A is N(0, 1 / inputs), so that x A has the size of x, and B is 0."""

    def leaf(row: Parameter) -> jax.Array:
        size = shape(row, config, model)
        if row.init == "zeros":
            return jnp.zeros(size, jnp.float32)
        of_row = jax.random.fold_in(key, zlib.crc32(row.path.encode()))
        return jax.random.normal(of_row, size, jnp.float32) / math.sqrt(math.prod(size[1:-1]))

    return parameters.tree(leaf, rows(config))


def count(config: LoraConfig, model: ModelConfig) -> int:
    return sum(math.prod(shape(row, config, model)) for row in rows(config))


def scaled(params: Params, config: LoraConfig) -> Params:
    """``params`` as the model takes them: every B times alpha / rank."""
    if not config.rank:
        return params

    def leaf(row: Parameter) -> Any:
        array = parameters.at(params, row)
        return array * np.float32(config.alpha / config.rank) if row.path.endswith("/b") else array

    return params | parameters.tree(leaf, rows(config))


def split(params: Params) -> tuple[Params, Params]:
    """What is learned of ``params``, and what is not: adapters and the rest, or everything and nothing."""
    if KEY not in params:
        return params, {}
    return {KEY: params[KEY]}, without_adapters(params)


def merged(params: Params, config: LoraConfig) -> Params:
    """The table's tree alone, with adapters added to their kernels, each where it lies; what generates text."""
    return _merged(params, config) if config.rank else params


def without_adapters(params: Params) -> Params:
    """The table's tree alone, without adapters."""
    return {name: leaf for name, leaf in params.items() if name != KEY}


@functools.partial(jax.jit, static_argnames="config")
def _merged(params: Params, config: LoraConfig) -> Params:
    base = without_adapters(params)
    found = {row.path for row in targets(config)}

    def leaf(row: Parameter) -> Any:
        kernel = parameters.at(base, row)
        if row.path not in found:
            return kernel
        return kernel + delta(*adapters_of(params, row), config)

    return parameters.tree(leaf)


def adapters_of(params: Params, row: Parameter) -> tuple[Any, Any]:
    """A and B of a target."""
    node = params[KEY]
    for key in row.path.split("/")[:-1]:
        node = node[key]
    return node["a"], node["b"]


def delta(a: Any, b: Any, config: LoraConfig) -> Any:
    """What is added to a kernel, stacked over layers: alpha / rank A B."""
    layers, rank = a.shape[0], a.shape[-1]
    b = b * np.float32(config.alpha / config.rank)
    product = a.reshape(layers, -1, rank) @ b.reshape(layers, rank, -1)
    return product.reshape(layers, *a.shape[1:-1], *b.shape[2:])
