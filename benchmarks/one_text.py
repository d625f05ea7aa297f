"""A trial: reading one token of one text on an NVIDIA GPU, a block in five kernels and the head in one.

XLA makes eleven kernels and more of a block, each of which waits for memory longer than it takes to read its numbers
(benchmarks/log_gpu.md). Here a product is one: it norms its input, streams the kernel's rows past it, and adds bias and
residual or applies GELU before it writes. They are Pallas kernels, which Triton compiles; a CPU interprets them.

No GPU has run them yet: `python -m benchmarks.gpu_trial` compares them with XLA's decoding, in numbers and in time. If
they hold there, their place is in the package.

Letters as in gpt2jax/model.py; I and O are a product's inputs and outputs. Arrays are in the compute dtype, norms' and
sums' arithmetic in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gpt2jax.config import ModelConfig
from gpt2jax.model import Cache
from gpt2jax.parameters import Params

# Outputs that a program makes at once, its warps, and inputs that it multiplies at once.
ROWS, WARPS, CHUNK = 4, 4, 1024
# Programs of a product; where there are more outputs, each takes several turns with the input that it has normed.
PROGRAMS = 1024
# Cache entries of a head that are read at once.
ENTRIES = 128


def decode_step(
    params: Params, token_1: jax.Array, position_1: jax.Array, cache: Cache, config: ModelConfig
) -> tuple[jax.Array, Cache]:
    """:func:`gpt2jax.model.decode_step` for one row; ``params`` are turned (:func:`gpt2jax.parameters.turn`)."""
    wte_VD, wpe_TD = params["wte"], params["wpe"]
    x_D = (wte_VD[token_1[0]].astype(jnp.float32) + wpe_TD[position_1[0]]).astype(wte_VD.dtype)
    written = []
    for layer_params, layer_cache in zip(params["h"], cache, strict=True):
        x_D, new = read_block(layer_params, x_D, layer_cache, position_1, config)
        written.append(new)
    return head(params, x_D, config)[None], written


@functools.partial(jax.jit, static_argnames="config")
def read_block(
    params: Params, x_D: jax.Array, cache: dict[str, jax.Array], position: jax.Array, config: ModelConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block for one token.

    Args:
        params: the block's, turned (gpt2jax.parameters.TURNED).
        cache: ``k`` and ``v`` [1, H, S, K].
        position: int32 [1], where the token stands. Past the cache nothing is written.

    Returns:
        The residual stream [D] after the block, and the cache with the token's entry written, in place where the
        caller gives it up.
    """
    epsilon, attention, mlp = config.layer_norm_epsilon, params["attn"], params["mlp"]
    qkv = product(x_D, attention["c_attn"], norm=params["ln_1"], epsilon=epsilon)
    out_HK, cache = attend(qkv.reshape(3, config.n_head, config.head_dim), cache, position)
    x_D = product(out_HK.reshape(-1), attention["c_proj"], residual=x_D)
    x_F = product(x_D, mlp["c_fc"], norm=params["ln_2"], epsilon=epsilon, gelu=True)
    return product(x_F, mlp["c_proj"], residual=x_D), cache


def head(params: Params, x_D: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits [V] (float32) of a state after the last block."""
    dense = {"turned": params["wte"]}
    return product(x_D, dense, norm=params["ln_f"], epsilon=config.layer_norm_epsilon, dtype=jnp.float32)


def product(
    x_I: jax.Array,
    dense: Params,
    *,
    norm: Params | None = None,
    epsilon: float = 0.0,
    residual: jax.Array | None = None,
    gelu: bool = False,
    dtype: Any = None,
) -> jax.Array:
    """A dense layer of one state, [O]: ``residual + gelu(kernel norm(x) + bias)``, each where it is asked for.

    Args:
        dense: ``turned`` [O..., I...] and maybe ``bias`` [O...].
        norm: ``scale`` and ``bias`` [I] of a layer norm.
        dtype: of the result; default: that of ``x_I``.
    """
    kernel_OI = dense["turned"].reshape(-1, x_I.size)
    outs = kernel_OI.shape[0]
    given = {"x": x_I, "kernel": kernel_OI}
    if "bias" in dense:
        given["bias"] = dense["bias"].reshape(-1)
    if norm is not None:
        given |= {"norm_scale": norm["scale"], "norm_bias": norm["bias"]}
    if residual is not None:
        given["residual"] = residual
    turns = pl.cdiv(outs, ROWS * PROGRAMS)
    body = functools.partial(_product, names=tuple(given), turns=turns, epsilon=epsilon, gelu=gelu)
    run = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((outs,), dtype or x_I.dtype),
        grid=(pl.cdiv(outs, ROWS * turns),),
        compiler_params=triton.CompilerParams(num_warps=WARPS),
        interpret=jax.default_backend() != "gpu",
        name="product",
    )
    return run(*given.values())


def _product(*refs: Any, names: tuple[str, ...], turns: int, epsilon: float, gelu: bool) -> None:
    given, out_O = dict(zip(names, refs, strict=False)), refs[-1]
    (outs, ins), program = given["kernel"].shape, pl.program_id(0)
    chunks = [start + jnp.arange(CHUNK) for start in range(0, ins, CHUNK)]

    def load(name: str, at: jax.Array, size: int) -> jax.Array:
        return triton.load(given[name].at[at], mask=at < size, other=0.0).astype(jnp.float32)

    def rows(turn: Any) -> jax.Array:
        return (program * turns + turn) * ROWS + jnp.arange(ROWS)

    def kernel(row_O: jax.Array) -> list[jax.Array]:
        array = given["kernel"]
        inside = [(row_O < outs)[:, None] & (at_I < ins)[None, :] for at_I in chunks]
        at = [array.at[row_O[:, None], at_I[None, :]] for at_I in chunks]
        return [triton.load(one, mask=mask, other=0.0) for one, mask in zip(at, inside, strict=True)]

    first = kernel(rows(0))  # Before the norm, whose sums would have it wait.
    x = [load("x", at_I, ins) for at_I in chunks]
    if "norm_scale" in given:
        mean = sum(jnp.sum(part_I) for part_I in x) / ins
        centred = [jnp.where(at_I < ins, part_I - mean, 0.0) for part_I, at_I in zip(x, chunks, strict=True)]
        rstd = jax.lax.rsqrt(sum(jnp.sum(part_I * part_I) for part_I in centred) / ins + epsilon)
        x = [
            part_I * rstd * load("norm_scale", at_I, ins) + load("norm_bias", at_I, ins)
            for part_I, at_I in zip(centred, chunks, strict=True)
        ]
        x = [part_I.astype(given["x"].dtype).astype(jnp.float32) for part_I in x]  # As other programs round it.

    def write(row_O: jax.Array, kernel: list[jax.Array]) -> None:
        products_OI = jnp.zeros((ROWS, CHUNK), jnp.float32)
        for part_OI, part_I in zip(kernel, x, strict=True):
            products_OI += part_OI.astype(jnp.float32) * part_I[None, :]
        y_O = jnp.sum(products_OI, axis=1)
        if "bias" in given:
            y_O += load("bias", row_O, outs)
        if gelu:  # As the logistic function: (1 + tanh(u)) / 2 of twice u.
            y_O *= jax.nn.sigmoid(2 * (2 / math.pi) ** 0.5 * (y_O + 0.044715 * y_O * y_O * y_O))
        if "residual" in given:
            y_O += load("residual", row_O, outs)
        triton.store(out_O.at[row_O], y_O.astype(out_O.dtype), mask=row_O < outs)

    write(rows(0), first)
    if turns > 1:

        @pl.loop(1, turns)
        def _(turn: jax.Array) -> None:
            write(rows(turn), kernel(rows(turn)))


def attend(
    qkv_3HK: jax.Array, cache: dict[str, jax.Array], position: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One query per head against the cache below ``position`` and its own key, which is written there.

    Returns:
        [H, K], and the cache.
    """
    _, heads, width = qkv_3HK.shape
    k_1HSK, v_1HSK = cache["k"], cache["v"]
    out = jax.ShapeDtypeStruct((heads, width), qkv_3HK.dtype)
    like = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (k_1HSK, v_1HSK)]
    run = pl.pallas_call(
        _attend,
        out_shape=(out, *like),
        grid=(heads,),
        input_output_aliases={2: 1, 3: 2},
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=jax.default_backend() != "gpu",
        name="attend",
    )
    out_HK, k_1HSK, v_1HSK = run(position, qkv_3HK, k_1HSK, v_1HSK)
    return out_HK, {"k": k_1HSK, "v": v_1HSK}


def _attend(position: Any, qkv: Any, k_in: Any, v_in: Any, out: Any, k_out: Any, v_out: Any) -> None:
    """A head: softmax over blocks of entries, with the largest score so far and the sum of exponentials carried on."""
    _, _, length, width = k_in.shape
    head, now, at_K = pl.program_id(0), position[0], jnp.arange(width)
    q_K, k_K, v_K = (qkv[which, head, :].astype(jnp.float32) for which in range(3))
    q_K = q_K / math.sqrt(width)
    for array, new_K in ((k_out, k_K), (v_out, v_K)):
        fits = jnp.broadcast_to(now < length, (width,))
        triton.store(array.at[0, head, now, at_K], new_K.astype(array.dtype), mask=fits)

    def block(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, sum_K = carry
        at_S = number * ENTRIES + jnp.arange(ENTRIES)
        seen_S = at_S < jnp.minimum(now, length)

        def load(array: Any) -> jax.Array:
            inside = jnp.broadcast_to(seen_S[:, None], (ENTRIES, width))
            entries = triton.load(array.at[0, head, at_S[:, None], at_K[None, :]], mask=inside, other=0.0)
            return entries.astype(jnp.float32)

        k_SK, v_SK = load(k_in), load(v_in)
        score_S = jnp.where(seen_S, jnp.sum(k_SK * q_K[None, :], axis=1), -jnp.inf)
        larger = jnp.maximum(largest, jnp.max(score_S))
        weight_S, shrink = jnp.exp(score_S - larger), jnp.exp(largest - larger)
        sum_K = sum_K * shrink + jnp.sum(weight_S[:, None] * v_SK, axis=0)
        return larger, total * shrink + jnp.sum(weight_S), sum_K

    # The token's own key comes first, so that there is a score to begin with.
    carry = (jnp.sum(q_K * k_K), jnp.float32(1.0), v_K)
    _, total, sum_K = jax.lax.fori_loop(0, pl.cdiv(jnp.minimum(now, length), ENTRIES), block, carry)
    out[head, :] = (sum_K / total).astype(out.dtype)
