"""GPT-2 in Flax Linen, and the pure functions that are all the rest of the package sees of it.

Names carry shapes: B batch, T query positions, S cache positions, D width, H heads, K head width, F MLP width,
V padded vocabulary, L layers.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt2jax import parameters
from gpt2jax.attention import NATIVE, attend, cached_attention, kernel_here, unstack, write_cache
from gpt2jax.config import ModelConfig
from gpt2jax.ops import gelu, layer_norm, product, scores, turned_product
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, one_device

# One dict per layer with "k" and "v", each [B, H, S, K] in the compute dtype.
Cache = list[dict[str, jax.Array]]

# As many as are decoded at once: their scores are made with the table first (:func:`gpt2jax.ops.scores`). With 8 of
# them a token takes 0.93 of the time on a CPU, with 32 of them the same (benchmarks/log.md).
FEW_STATES = 16

_ROWS = {parameter.path: parameter for parameter in (*parameters.TABLE, *parameters.TURNED)}

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def compute_dtype(config: ModelConfig) -> Any:
    """Dtype of matrix products; ``auto`` is bfloat16 where the hardware multiplies it natively."""
    return jnp.dtype(NATIVE[jax.default_backend()] if config.compute_dtype == "auto" else config.compute_dtype)


class _Module(nn.Module):
    config: ModelConfig

    def row(self, path: str) -> jax.Array:
        """The parameter of the table's row ``path``; inside a block, of one layer."""
        parameter = _ROWS[path]
        size = parameters.shape(parameter, self.config)[int(parameter.stacked) :]
        name = path.rsplit("/", 1)[-1]
        return self.param(name, lambda key: parameters.initial_value(parameter, key, size, self.config))


class _Placed(_Module):
    partition: Partition | None = None
    unstacked: bool = False
    """Whether it is one of a list of blocks, which are not told what mesh their parameters are on."""

    @property
    def alone(self) -> bool:
        return one_device(self.partition) and not self.unstacked

    def pin(self, x: jax.Array, *axes: str) -> jax.Array:
        """``x`` [B, ...] on the mesh, where the rules cut positions between blocks (``sequence``): they are whole
        inside a block, which is cut along heads and MLP. Left to the compiler, the cut moves about."""
        if self.partition is None or not self.partition.rules.sequence:
            return x
        return self.partition.constrain(x, "batch", *axes)


class LayerNorm(_Module):
    rows: str

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        scale_D, bias_D = self.row(f"{self.rows}/scale"), self.row(f"{self.rows}/bias")
        return layer_norm(x_BTD, scale_D, bias_D, self.config.layer_norm_epsilon)


class Dense(_Module):
    """``einsum(x, kernel) + bias`` in the dtype of ``x``; ``expand`` are the output's axes that the bias lacks.

    Where the kernel has low-rank adapters (:mod:`gpt2jax.lora`), x A B is added.
    """

    rows: str
    einsum: str
    expand: tuple[int, ...] = (0, 1)
    alone: bool = True
    """Whether it is known that one device computes it: on a mesh, products are left to the compiler, which also places
    them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = jnp.expand_dims(self.row(f"{self.rows}/bias").astype(x.dtype), self.expand)
        if self.has_variable("params", "turned"):  # As a CPU decodes them; adapters are merged by then.
            return turned_product(self.einsum, x, self.row(f"{self.rows}/turned").astype(x.dtype)) + bias
        kernel = self.row(f"{self.rows}/kernel").astype(x.dtype)
        out = (product if self.alone else jnp.einsum)(self.einsum, x, kernel) + bias
        if not self.has_variable("lora", "a"):
            return out
        a, b = (self.get_variable("lora", name).astype(x.dtype) for name in ("a", "b"))
        (left, right), result = self.einsum.split("->")[0].split(","), self.einsum.split("->")[1]
        ins = "".join(axis for axis in right if axis in left)
        low = "".join(axis for axis in left if axis not in ins) + "r"
        x_low = jnp.einsum(f"{left},{ins}r->{low}", x, a)
        return out + jnp.einsum(f"{low},r{right.removeprefix(ins)}->{result}", x_low, b)


class Attention(_Placed):
    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        cache: dict[str, jax.Array] | None,
        position_B: jax.Array | None,
        deterministic: bool,
        segments_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Attend causally among the T positions of ``x_BTD``, or, given a cache, against it from ``position_B`` on.

        Returns:
            The branch's output [B, T, D], and keys and values: the new ones, or the cache with the new one written.
        """
        config, key, kernel = self.config, None, ""
        if cache is None:
            key = None if deterministic or config.dropout == 0.0 else self.make_rng("dropout")
            segmented = segments_BT is not None
            kernel = kernel_here(config, x_BTD, self.partition, dropout=key is not None, segmented=segmented)
        if kernel == "xla":
            qkv_CBHTK = Dense(config, "h/attn/c_attn", "btd,dchk->cbhtk", (1, 3), alone=self.alone, name="c_attn")(
                x_BTD
            )
        else:  # On CPU the other form takes longer for few positions and for very many.
            qkv_BTCHK = Dense(config, "h/attn/c_attn", "btd,dchk->btchk", alone=self.alone, name="c_attn")(x_BTD)
            qkv_CBHTK = qkv_BTCHK.transpose(2, 0, 3, 1, 4)
        q_BHTK, k_BHTK, v_BHTK = (self.pin(one_BHTK, "heads", "length", "head_dim") for one_BHTK in unstack(qkv_CBHTK))
        if cache is None or position_B is None:
            out_BHTK = attend(kernel, config, q_BHTK, k_BHTK, v_BHTK, self.partition, key, segments_BT)
            out_BHTK = self.pin(out_BHTK, "heads", "length", "head_dim")
            cache = {"k": k_BHTK, "v": v_BHTK}
        else:
            cache = {"k": write_cache(cache["k"], k_BHTK, position_B), "v": write_cache(cache["v"], v_BHTK, position_B)}
            out_BHTK = cached_attention(q_BHTK, cache["k"], cache["v"], position_B)
        out_BTD = Dense(config, "h/attn/c_proj", "bhtk,hkd->btd", alone=self.alone, name="c_proj")(out_BHTK)
        return out_BTD, cache


class Mlp(_Placed):
    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x_BTF = Dense(self.config, "h/mlp/c_fc", "btd,df->btf", alone=self.alone, name="c_fc")(x_BTD)
        x_BTF = self.pin(x_BTF, "length", "mlp")
        x_BTF = gelu(x_BTF)
        return Dense(self.config, "h/mlp/c_proj", "btf,fd->btd", alone=self.alone, name="c_proj")(x_BTF)


class Block(_Placed):
    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        cache: dict[str, jax.Array] | None,
        position_B: jax.Array | None,
        deterministic: bool,
        segments_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=deterministic)
        normed_BTD = self.pin(LayerNorm(config, "h/ln_1", name="ln_1")(x_BTD), "length", "model")
        attention = Attention(config, self.partition, self.unstacked, name="attn")
        branch_BTD, cache = attention(normed_BTD, cache, position_B, deterministic, segments_BT)
        x_BTD = x_BTD + dropout(self.pin(branch_BTD, "sequence", "model"))
        normed_BTD = self.pin(LayerNorm(config, "h/ln_2", name="ln_2")(x_BTD), "length", "model")
        branch_BTD = Mlp(config, self.partition, self.unstacked, name="mlp")(normed_BTD)
        x_BTD = x_BTD + dropout(self.pin(branch_BTD, "sequence", "model"))
        if self.partition:
            x_BTD = self.partition.constrain(x_BTD, "batch", "sequence", "model")
        return x_BTD, cache


class GPT2(_Placed):
    """The stack over whole sequences: scanned over layers; in a loop, 48 of them compile as fast as 2."""

    keep_states: bool = False

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, deterministic: bool, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Final states [B, T, D] after ln_f, and with ``keep_states`` those of every layer [L + 1, B, T, D]."""
        config, partition = self.config, self.partition
        x_BTD = _embed(self.row("wte"), self.row("wpe"), tokens_BT, jnp.arange(tokens_BT.shape[1])[None, :], config)
        if partition:
            x_BTD = partition.constrain(x_BTD, "batch", "sequence", "model")
        x_BTD = nn.Dropout(config.dropout, deterministic=deterministic)(x_BTD)
        embedded_BTD = x_BTD

        def body(block: Block, x_BTD: jax.Array, _: None) -> tuple[jax.Array, Any]:
            x_BTD, _ = block(x_BTD, None, None, deterministic, segments_BT)
            return x_BTD, x_BTD if self.keep_states else None

        if config.remat in _REMAT_POLICIES:
            # Without a loop between them, the compiler would take what is computed again for what was computed before.
            body = nn.remat(body, prevent_cse=not config.loops, policy=_REMAT_POLICIES[config.remat])
        scan = nn.scan(
            body,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.n_layer,
            unroll=max(config.scan_unroll, 1),
        )
        x_BTD, states_LBTD = scan(Block(config, partition, name="h"), x_BTD, None)
        x_BTD = LayerNorm(config, "ln_f", name="ln_f")(x_BTD)
        if partition:
            x_BTD = partition.constrain(x_BTD, "batch", "length", "model")
        if not self.keep_states:
            return x_BTD, None
        return x_BTD, jnp.concatenate([embedded_BTD[None], states_LBTD[:-1], x_BTD[None]])


def _embed(
    wte_VD: jax.Array, wpe_TD: jax.Array, tokens_BT: jax.Array, positions_BT: jax.Array, config: ModelConfig
) -> jax.Array:
    # A position past the table or a token past the vocabulary must not be taken for a neighbour (a plain gather
    # clamps to the last row): it makes NaN, which nobody overlooks.
    token_BTD = jnp.asarray(wte_VD).at[tokens_BT].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    position_BTD = jnp.asarray(wpe_TD).at[positions_BT].get(mode="fill", fill_value=jnp.nan)
    return (token_BTD.astype(position_BTD.dtype) + position_BTD).astype(compute_dtype(config))


def final_states(
    params: Params,
    tokens_BT: jax.Array,
    config: ModelConfig,
    *,
    partition: Partition | None = None,
    dropout_key: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """States [B, T, D] after the final layer norm, in the compute dtype; :func:`logits` turns them into scores.

    Args:
        params: the table's tree, stacked over layers, and with it what :func:`gpt2jax.lora.scaled` makes of adapters.
        tokens_BT: integer tokens, at most ``config.n_ctx`` of them in a row.
        partition: the mesh that ``params`` are on, to which it pins activations; None is for a single device, and on
            others leaves them to the compiler, which then puts the parts of a kernel together for each product.
        dropout_key: turns dropout on; the mask is a function of this key.
        segments_BT: integers; a position attends to those of its own number alone. Positions count on through all.

    Raises:
        GPT2JaxError: ``params`` are not this model's.
    """
    return _apply(params, tokens_BT, config, partition, dropout_key, False, segments_BT)[0]


def forward(
    params: Params,
    tokens_BT: jax.Array,
    config: ModelConfig,
    *,
    partition: Partition | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits [B, T, V] in float32 for the token after each position; arguments as in :func:`final_states`.

    Entries from ``config.n_vocab`` on pad the vocabulary and stand for no token.
    """
    x_BTD = final_states(params, tokens_BT, config, partition=partition, dropout_key=dropout_key)
    return logits(params, x_BTD, partition)


def hidden_states(
    params: Params,
    tokens_BT: jax.Array,
    config: ModelConfig,
    *,
    partition: Partition | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Features of every layer, [L + 1, B, T, D] in the compute dtype; arguments as in :func:`final_states`.

    Entry 0 is the embedding, entry l the output of block l, but the last one is taken after the final layer norm
    (as Hugging Face's ``hidden_states`` are).
    """
    return _apply(params, tokens_BT, config, partition, dropout_key, keep_states=True)[1]


def logits(params: Params, x_BTD: jax.Array, partition: Partition | None = None) -> jax.Array:
    """Scores [B, T, V] in float32: final states against the token embedding (the head is tied, without bias)."""
    if one_device(partition) and math.prod(x_BTD.shape[:2]) <= FEW_STATES:
        return scores(x_BTD, params["wte"].astype(x_BTD.dtype))
    logits_BTV = jnp.einsum("btd,vd->btv", x_BTD, params["wte"].astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    if partition:
        logits_BTV = partition.constrain(logits_BTV, "batch", "length", "logits")
    return logits_BTV


def prefill(
    params: Params, tokens_BT: jax.Array, length_B: jax.Array, config: ModelConfig, cache_length: int
) -> tuple[jax.Array, Cache]:
    """Read prompts of different lengths at once.

    Args:
        params: unstacked (:func:`gpt2jax.parameters.unstack`), of the table or turned.
        tokens_BT: prompts, padded on the right with any token.
        length_B: int32 lengths of the prompts, at least 1.
        cache_length: S of the cache, at least T.

    Returns:
        Logits [B, V] (float32) after each prompt's last token, and the cache, valid for row b below ``length_B[b]``.
        Later entries hold the padding's keys; :func:`decode_step` writes each before the row can see it.
    """
    x_BTD, layers = read(params, tokens_BT, config)
    pad = ((0, 0), (0, 0), (0, cache_length - tokens_BT.shape[1]), (0, 0))
    cache = [{name: jnp.pad(new[name], pad) for name in ("k", "v")} for new in layers]
    last_B1D = jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)
    return head(params, last_B1D, config)[:, 0], cache


def read(params: Params, tokens_BT: jax.Array, config: ModelConfig) -> tuple[jax.Array, Cache]:
    """States [B, T, D] after the last block, which :func:`head` turns into logits, and each layer's keys and values.

    Args:
        params: unstacked (:func:`gpt2jax.parameters.unstack`), of the table or turned.
    """
    x_BTD = _embed(params["wte"], params["wpe"], tokens_BT, jnp.arange(tokens_BT.shape[1])[None, :], config)
    cache = []
    for layer_params in params["h"]:
        x_BTD, new = _block(layer_params, x_BTD, None, None, config)
        cache.append(new)
    return x_BTD, cache


def decode_step(
    params: Params, token_B: jax.Array, position_B: jax.Array, cache: Cache, config: ModelConfig
) -> tuple[jax.Array, Cache]:
    """Read one more token per row, each at its own position: :func:`decode_steps` for one; logits are [B, V]."""
    logits_B1V, cache = decode_steps(params, token_B[:, None], position_B, cache, config)
    return logits_B1V[:, 0], cache


def decode_steps(
    params: Params, tokens_BT: jax.Array, position_B: jax.Array, cache: Cache, config: ModelConfig
) -> tuple[jax.Array, Cache]:
    """Read a few more tokens per row, as :func:`read_on` does.

    Returns:
        Logits [B, T, V] (float32) for the token after each, and the cache with these tokens' entries written.
    """
    x_BTD, cache = read_on(params, tokens_BT, position_B, cache, config)
    return head(params, x_BTD, config), cache


def read_on(
    params: Params, tokens_BT: jax.Array, position_B: jax.Array, cache: Cache, config: ModelConfig
) -> tuple[jax.Array, Cache]:
    """Read a few more tokens per row, from each row's own position on.

    Args:
        params: unstacked (:func:`gpt2jax.parameters.unstack`), of the table or turned.
        position_B: int32, where ``tokens_BT[:, 0]`` stands. Past the context or the cache the states become NaN.

    Returns:
        States [B, T, D] after the last block, which :func:`head` turns into logits, and the cache with these tokens'
        entries written. All of them must fit: the last entries of a cache take what would lie past its end.
    """
    position_BT = position_B[:, None] + jnp.arange(tokens_BT.shape[1])[None, :]
    x_BTD = _embed(params["wte"], params["wpe"], tokens_BT, position_BT, config)
    x_BTD = jnp.where((position_BT < cache[0]["k"].shape[2])[:, :, None], x_BTD, jnp.nan)
    written = []
    for layer_params, layer_cache in zip(params["h"], cache, strict=True):
        x_BTD, new = _block(layer_params, x_BTD, layer_cache, position_B, config)
        written.append(new)
    return x_BTD, written


@functools.partial(jax.jit, static_argnames="config")
def _block(
    layer_params: Params,
    x_BTD: jax.Array,
    cache: dict[str, jax.Array] | None,
    position_B: jax.Array | None,
    config: ModelConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block of the unstacked stack; jitted, so that the layers are traced once and not one by one."""
    return Block(_portable(config), unstacked=True).apply({"params": layer_params}, x_BTD, cache, position_B, True)


def _portable(config: ModelConfig) -> ModelConfig:
    """To read with: the kernel that a model was trained with may not be here, nor take a text's length."""
    return config if config.attention == "xla" else dataclasses.replace(config, attention="auto")


def head(params: Params, x_BTD: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits [B, T, V] (float32) of states after the last block: final layer norm and token embedding."""
    return logits(params, final_norm(params, x_BTD, config))


def final_norm(params: Params, x_BTD: jax.Array, config: ModelConfig) -> jax.Array:
    """States [B, T, D] after the last block, normed as the head reads them."""
    normed_BTD: jax.Array = LayerNorm(config, "ln_f").apply({"params": params["ln_f"]}, x_BTD)
    return normed_BTD


def _apply(
    params: Params,
    tokens_BT: jax.Array,
    config: ModelConfig,
    partition: Partition | None,
    dropout_key: jax.Array | None,
    keep_states: bool,
    segments_BT: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    adapters, params = params.get("lora", {}), {name: leaf for name, leaf in params.items() if name != "lora"}
    parameters.check(params, config)
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    model = GPT2(config if partition else _portable(config), partition, keep_states=keep_states)
    return model.apply({"params": params, "lora": adapters}, tokens_BT, dropout_key is None, segments_BT, rngs=rngs)
