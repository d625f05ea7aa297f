"""The one table of GPT-2's parameters: each fact about each of them is written here and nowhere else.

Shapes, shardings, initialisation, weight decay, foreign names and the FLOP count all derive from :data:`TABLE`.
Parameters themselves are a plain nested dict of float32 arrays under the table's paths; the parameters of the
blocks (under ``h``) are stacked on a leading layer axis.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    path: str
    """Where it lies in the parameters, with ``/`` between keys."""
    axes: tuple[str, ...]
    """Logical axes: their sizes (:func:`axis_sizes`) give the shape, the sharding rules their place on a mesh."""
    init: Literal["ones", "zeros", "embedding", "position", "kernel", "residual"]
    decay: bool
    """Whether weight decay applies."""
    openai: str
    """Variable name in OpenAI's checkpoint (openai/gpt-2, src/model.py); ``{i}`` is the layer."""
    huggingface: str
    """Tensor name in Hugging Face's GPT2Model, without the ``transformer.`` prefix; ``{i}`` is the layer."""
    llmc: str
    """Name in llm.c's ParameterTensors (karpathy/llm.c, train_gpt2.c), whose files hold its layers together, in the
    order of this table."""
    inputs: int = 0
    """Of a kernel: how many of its axes after the layers' are inputs, which it sums over."""

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"


def _layer_norm(path: str, openai: str, huggingface: str, llmc: str) -> list[Parameter]:
    axes = ("layers", "model") if path.startswith("h/") else ("model",)
    return [
        Parameter(f"{path}/scale", axes, "ones", False, f"{openai}/g", f"{huggingface}.weight", f"{llmc}w"),
        Parameter(f"{path}/bias", axes, "zeros", False, f"{openai}/b", f"{huggingface}.bias", f"{llmc}b"),
    ]


def _dense(
    name: str, llmc: str, ins: tuple[str, ...], outs: tuple[str, ...], init: Literal["kernel", "residual"]
) -> list[Parameter]:
    # A bias that adds to the residual stream has its width, and is small: "model" where the kernel shards "embed".
    bias = tuple("model" if axis == "embed" else axis for axis in outs)
    openai, huggingface = f"model/h{{i}}/{name}", f"h.{{i}}.{name.replace('/', '.')}"
    return [
        Parameter(
            f"h/{name}/kernel",
            ("layers", *ins, *outs),
            init,
            True,
            f"{openai}/w",
            f"{huggingface}.weight",
            f"{llmc}w",
            inputs=len(ins),
        ),
        Parameter(
            f"h/{name}/bias", ("layers", *bias), "zeros", False, f"{openai}/b", f"{huggingface}.bias", f"{llmc}b"
        ),
    ]


TABLE: tuple[Parameter, ...] = (
    Parameter("wte", ("vocab", "table"), "embedding", True, "model/wte", "wte.weight", "wte"),
    Parameter("wpe", ("position", "table"), "position", True, "model/wpe", "wpe.weight", "wpe"),
    *_layer_norm("h/ln_1", "model/h{i}/ln_1", "h.{i}.ln_1", "ln1"),
    # Query, key and value apart and heads apart: fused as [D, 3D], a tensor shard would cut across the three.
    *_dense("attn/c_attn", "qkv", ("embed",), ("qkv", "heads", "head_dim"), "kernel"),
    *_dense("attn/c_proj", "attproj", ("heads", "head_dim"), ("embed",), "residual"),
    *_layer_norm("h/ln_2", "model/h{i}/ln_2", "h.{i}.ln_2", "ln2"),
    *_dense("mlp/c_fc", "fc", ("embed",), ("mlp",), "kernel"),
    *_dense("mlp/c_proj", "fcproj", ("mlp",), ("embed",), "residual"),
    *_layer_norm("ln_f", "model/ln_f", "ln_f", "lnf"),
)


def _turned(parameter: Parameter) -> Parameter:
    if not parameter.inputs:
        return parameter
    layers, *axes = parameter.axes
    axes = axes[parameter.inputs :] + axes[: parameter.inputs]
    return dataclasses.replace(parameter, path=parameter.path.replace("kernel", "turned"), axes=(layers, *axes))


# The rows of TABLE as one CPU decodes fastest (ops.turned_product): kernels have their inputs after their outputs, and
# another name. For arrays that there are: nothing is initialised, sharded for training or stored so.
TURNED = tuple(map(_turned, TABLE))


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Size of every logical axis that a parameter can have."""
    return {
        "layers": config.n_layer,
        "vocab": config.padded_vocab,
        "position": config.n_ctx,
        "table": config.n_embd,
        "embed": config.n_embd,
        "model": config.n_embd,
        "qkv": 3,
        "heads": config.n_head,
        "head_dim": config.head_dim,
        "mlp": 4 * config.n_embd,
    }


def shape(parameter: Parameter, config: ModelConfig) -> tuple[int, ...]:
    sizes = axis_sizes(config)
    return tuple(sizes[axis] for axis in parameter.axes)


def tree(leaf: Callable[[Parameter], Any], rows: Iterable[Parameter] = TABLE) -> Params:
    """A nested dict in the layout of the parameters, with ``leaf(parameter)`` at each place."""
    root: Params = {}
    for parameter in rows:
        *parents, name = parameter.path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf(parameter)
    return root


def at(params: Params, parameter: Parameter) -> Any:
    """The leaf of ``params`` that a row of the table describes."""
    node: Any = params
    for key in parameter.path.split("/"):
        node = node[key]
    return node


def abstract(config: ModelConfig) -> Params:
    """Shape and dtype of every parameter, without memory."""
    return tree(lambda parameter: jax.ShapeDtypeStruct(shape(parameter, config), jnp.float32))


def initial_value(parameter: Parameter, key: jax.Array, size: tuple[int, ...], config: ModelConfig) -> jax.Array:
    """A fresh float32 array of shape ``size`` (with or without the layer axis) for one row of the table."""
    if parameter.init in ("ones", "zeros"):
        return jnp.full(size, float(parameter.init == "ones"), jnp.float32)
    std = 0.01 if parameter.init == "position" else 0.02
    if parameter.inputs and config.init == "human-preferences":
        kernel = shape(parameter, config)[1:]
        std = 1 / math.sqrt(math.prod(kernel[: parameter.inputs]))
        if parameter.init == "residual":
            std /= math.sqrt(config.n_layer)
    if parameter.init == "residual" and config.init == "gpt2-paper":
        std /= math.sqrt(2 * config.n_layer)
    value = std * jax.random.normal(key, size, jnp.float32)
    if parameter.init == "embedding":  # The rows that pad the vocabulary stand for no token.
        value = jnp.where(jnp.arange(size[0])[:, None] < config.n_vocab, value, 0.0)
    return value


def init(key: jax.Array, config: ModelConfig) -> Params:
    """Fresh parameters, a pure function of ``key``: jit it with ``out_shardings`` and each shard is born in place.

    ``openai`` follows the released program (openai/gpt-2, src/model.py): N(0, 0.02) for kernels and token
    embeddings, N(0, 0.01) for positions, biases 0. ``gpt2-paper`` also scales the kernels that write to the residual
    stream by 1/sqrt(N), "where N is the number of residual layers" (Radford et al. 2019, section 2.3). The paper
    does not say what it counts; N = 2 n_layer here, because each block adds to the stream twice and so its variance
    at the output does not grow with depth. ``human-preferences`` follows the program that OpenAI later trained
    GPT-2 with (openai/lm-human-preferences, language/model.py): kernels N(0, 1/fan-in), the residual ones scaled by
    1/sqrt(n_layer) as well. The first two suit GPT-2's own widths; in a narrow model, where 0.02 is far below
    1/sqrt(fan-in), the third learns faster.
    """
    # A key by name, not by order: adding a row to the table changes no other parameter.
    return tree(
        lambda parameter: initial_value(
            parameter, jax.random.fold_in(key, zlib.crc32(parameter.path.encode())), shape(parameter, config), config
        )
    )


def check(params: Params, config: ModelConfig) -> None:
    """Refuse parameters that are not this model's, listing every leaf that is missing, unknown or misshapen.

    Flax ignores parameters that it does not know; a wrong tree would otherwise compute something else in silence.
    """
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    wanted = {parameter.path: shape(parameter, config) for parameter in TABLE}
    faults = [f"{path} is missing" for path in wanted if path not in found]
    faults += [f"{path} is unknown" for path in found if path not in wanted]
    faults += [
        f"{path} has shape {found[path]} instead of {size}"
        for path, size in wanted.items()
        if found.get(path, size) != size
    ]
    if faults:
        raise GPT2JaxError(f"parameters: {'; '.join(faults)}")


def unstack(params: Params, config: ModelConfig) -> Params:
    """The same parameters with ``h`` as a list of blocks [layer] instead of blocks stacked on a leading axis.

    Decoding wants this: slicing a stacked kernel inside a loop copies it, and at batch 1 the weights are all the
    traffic there is.

    Args:
        params: whose leaves under ``h`` are stacked, or lists of an array for each layer.
    """

    def block(layer: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[layer], params["h"], is_leaf=lambda leaf: isinstance(leaf, list))

    return params | {"h": [block(layer) for layer in range(config.n_layer)]}


def turn(params: Params) -> Params:
    """Stacked parameters of :data:`TABLE` as those of :data:`TURNED`."""
    of = {turned.path: row for turned, row in zip(TURNED, TABLE, strict=True)}

    def leaf(turned: Parameter) -> Any:
        first, ins = int(turned.stacked), turned.inputs
        return jnp.moveaxis(at(params, of[turned.path]), range(first, first + ins), range(-ins, 0))

    return tree(leaf, TURNED)


def count(config: ModelConfig) -> int:
    """Number of parameters as usually quoted: without the rows that pad the vocabulary (124,439,808 for gpt2)."""
    padding = (config.padded_vocab - config.n_vocab) * config.n_embd
    return sum(math.prod(shape(parameter, config)) for parameter in TABLE) - padding


def train_flops_per_token(config: ModelConfig, length: int) -> float:
    """Floating point operations of one training token, forward and backward, at sequence length ``length``.

    The usual convention (Chowdhery et al. 2022, appendix B; nanoGPT): 6 N + 12 n_layer n_embd length, where N counts
    every parameter but the position table, and attention is counted as if it were not causal.
    """
    positions = config.n_ctx * config.n_embd
    return 6.0 * (count(config) - positions) + 12.0 * config.n_layer * config.n_embd * length
