"""Causal attention, with heads outside of positions: [B, H, T, K]; and which kernel computes it.

In that layout each head's products are plain matrix products over contiguous memory; with heads inside
([B, T, H, K]) they run at less than half the speed on CPU.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax import kernels
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.partition import Partition, one_device

# Queries are cut into blocks of this many positions, each against only the keys it may see: at 4 blocks
# that skips three eighths of the work, with more of them close to half.
QUERY_BLOCK = 128
# Scores of one such block, of all rows and heads, up to which a CPU's caches keep them between the two products.
CACHED_SCORES = 2**20

# The dtype that the hardware multiplies natively.
NATIVE = {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}


def choose(
    config: ModelConfig, length: int, dtype: jnp.dtype, platform: str, dropout: bool, segmented: bool = False
) -> tuple[str, str]:
    """The kernel for whole sequences: ``xla`` (this module's), ``splash`` or ``cudnn``.

    ``model.attention`` names one; ``auto`` takes splash on TPU and cuDNN on GPU where they can, xla elsewhere.

    Args:
        dtype: of the matrix products.
        platform: of the devices: ``cpu``, ``gpu`` or ``tpu``.
        dropout: whether attention weights are dropped, which xla alone does.
        segmented: whether attention is confined to segments, which cuDNN's cannot.

    Returns:
        Its name, and a note for people: why ``auto`` could not take the faster one, or what is slow; often empty.

    Raises:
        GPT2JaxError: the kernel that ``model.attention`` names cannot compute this.
    """
    asked = config.attention
    name = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "xla") if asked == "auto" else asked
    lacks = "it drops no attention weights (model.dropout)" if dropout and name != "xla" else None
    if lacks is None and name == "splash":
        lacks = "there is no TPU" if platform == "gpu" else kernels.splash_lacks(length)
    elif lacks is None and name == "cudnn":
        confined = "it cannot confine attention to a document (data.document_mask)"
        lacks = confined if segmented else kernels.cudnn_lacks(config.head_dim, dtype)
        if lacks is None and platform != "gpu":
            lacks = "there is no GPU"
    if lacks is None:
        slow = name == "splash" and platform == "cpu"
        return name, "interpreted, which is for tests: there is no TPU" if slow else ""
    if asked != "auto":
        raise GPT2JaxError(f"model.attention: {asked!r}: {lacks}; should be 'auto' or 'xla'")
    return "xla", f"not {name}: {lacks}"


def training_kernel(config: ModelConfig, place: Partition, segmented: bool = False) -> tuple[str, str]:
    """What :func:`choose` says of training on ``place``; ``segmented`` and errors as there."""
    platform = place.mesh.devices.flat[0].platform
    dtype = jnp.dtype(config.compute_dtype if config.compute_dtype != "auto" else NATIVE[platform])
    return choose(config, config.n_ctx, dtype, platform, config.dropout > 0, segmented)


def describe_attention(config: ModelConfig, place: Partition, segmented: bool = False) -> str:
    """:func:`training_kernel` in words."""
    name, note = training_kernel(config, place, segmented)
    return f"{name} ({note})" if note else name


def kernel_here(
    config: ModelConfig, x_BTD: jax.Array, partition: Partition | None, *, dropout: bool, segmented: bool = False
) -> str:
    """The kernel that :func:`choose` names for ``x_BTD`` on the devices of ``partition``, or on jax's own without one.

    ``auto`` leaves splash alone without a partition, as it must know where its arrays lie, and takes ``heads``
    (:func:`head_by_head`) for ``xla`` on one CPU whose caches the scores overflow.
    """
    platform = partition.mesh.devices.flat[0].platform if partition else jax.default_backend()
    if partition is None and config.attention == "auto" and platform == "tpu":
        return "xla"
    rows, length, _ = x_BTD.shape
    name, _ = choose(config, length, x_BTD.dtype, platform, dropout, segmented)
    alone = one_device(partition)
    if name == "xla" and alone and not (dropout or segmented) and goes_by_heads(config, rows, length, platform):
        return "heads"
    return name


def goes_by_heads(config: ModelConfig, rows: int, length: int, platform: str) -> bool:
    """Whether one device that drops no weights takes :func:`head_by_head` for ``xla``."""
    scores = rows * config.n_head * length * min(length, QUERY_BLOCK)
    return platform == "cpu" and config.attention == "auto" and scores > CACHED_SCORES


@jax.custom_vjp
def unstack(qkv_CBHTK: jax.Array) -> tuple[jax.Array, ...]:
    """Queries, keys and values, each [B, H, T, K].

    Their gradients are put together in one pass. Derived automatically, each is widened with zeros to all three, and
    these are summed: on CPU 2 to 12 percent of a step (benchmarks/log.md). Reverse mode only.
    """
    return tuple(qkv_CBHTK)


unstack.defvjp(lambda qkv_CBHTK: (unstack(qkv_CBHTK), None), lambda _, grads: (jnp.stack(grads),))


def attend(
    kernel: str,
    config: ModelConfig,
    q_BHTK: jax.Array,
    k_BHTK: jax.Array,
    v_BHTK: jax.Array,
    partition: Partition | None,
    dropout_key: jax.Array | None,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Causal attention of whole sequences by ``kernel``; as :func:`causal_attention`.

    Args:
        partition: where the arrays lie; None: whole on one device.
        dropout_key: turns dropout of attention weights on.
    """
    if kernel == "splash":
        platform = partition.mesh.devices.flat[0].platform if partition else jax.default_backend()
        return kernels.splash_attention(q_BHTK, k_BHTK, v_BHTK, partition, segments_BT, interpret=platform != "tpu")
    if kernel == "cudnn":
        return kernels.cudnn_attention(q_BHTK, k_BHTK, v_BHTK)
    if kernel == "heads":
        return head_by_head(q_BHTK, k_BHTK, v_BHTK)

    def plain(q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array) -> jax.Array:
        return causal_attention(q_BHTK, k_BHTK, v_BHTK, config.dropout, dropout_key, segments_BT)

    if config.remat == "attention":
        plain = jax.checkpoint(plain, prevent_cse=not config.loops)
    return plain(q_BHTK, k_BHTK, v_BHTK)


def causal_attention(
    q_BHTK: jax.Array,
    k_BHTK: jax.Array,
    v_BHTK: jax.Array,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Each position attends to itself and those before it.

    Softmax in float32; scores scaled by 1/sqrt(K) (openai/gpt-2, src/model.py, ``attn``).

    Args:
        dropout: probability of dropping an attention weight; needs ``dropout_key`` when above 0.
        segments_BT: integers; a position attends to those of its own number alone. None: all are of one.

    Returns:
        [B, H, T, K] in the dtype of ``q_BHTK``.
    """
    length = q_BHTK.shape[2]
    outs = []
    for block, start in enumerate(range(0, length, QUERY_BLOCK)):
        end = min(start + QUERY_BLOCK, length)
        mask = (jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :])[None, None]
        if segments_BT is not None:
            mask = mask & (segments_BT[:, None, start:end, None] == segments_BT[:, None, None, :end])
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, block)
        outs.append(_attend(q_BHTK[:, :, start:end], k_BHTK[:, :, :end], v_BHTK[:, :, :end], mask, dropout, key))
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=2)


@jax.custom_vjp
def head_by_head(q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array) -> jax.Array:
    """:func:`causal_attention`, a head of a row after the other, so that its scores stay in a CPU's caches.

    Under differentiation it is all heads at once, which is faster there; the backward pass keeps the arguments alone.
    Reverse mode only.
    """

    def one(qkv: tuple[jax.Array, ...]) -> jax.Array:
        q_TK, k_TK, v_TK = qkv
        return causal_attention(q_TK[None, None], k_TK[None, None], v_TK[None, None])[0, 0]

    heads = tuple(one_BHTK.reshape(-1, *one_BHTK.shape[2:]) for one_BHTK in (q_BHTK, k_BHTK, v_BHTK))
    return jax.lax.map(one, heads).reshape(q_BHTK.shape)


def _all_heads(q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array) -> tuple[jax.Array, Any]:
    return causal_attention(q_BHTK, k_BHTK, v_BHTK), (q_BHTK, k_BHTK, v_BHTK)


def _all_heads_backward(qkv: Any, grad_BHTK: jax.Array) -> Any:
    return jax.vjp(causal_attention, *qkv)[1](grad_BHTK)


head_by_head.defvjp(_all_heads, _all_heads_backward)


def cached_attention(q_BHTK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, position_B: jax.Array) -> jax.Array:
    """A few queries per row from its own position on, against a cache whose later entries are not valid yet.

    Args:
        position_B: int32; query t of row b sees cache entries 0 to position_B[b] + t.
    """
    position_BT = position_B[:, None] + jnp.arange(q_BHTK.shape[2])[None, :]
    mask_BTS = jnp.arange(k_BHSK.shape[2])[None, None, :] <= position_BT[:, :, None]
    return _attend(q_BHTK, k_BHSK, v_BHSK, mask_BTS[:, None], 0.0, None)


def write_cache(cache_BHSK: jax.Array, new_BHTK: jax.Array, position_B: jax.Array) -> jax.Array:
    """``new`` into the cache from each row's own position on; at the end of the cache, where it does not fit."""
    if cache_BHSK.shape[0] == 1:
        return jax.lax.platform_dependent(cache_BHSK, new_BHTK, position_B, cpu=_write_twice, default=_write_once)
    return _write_once(cache_BHSK, new_BHTK, position_B)


def _write_once(cache_BHSK: jax.Array, new_BHTK: jax.Array, position_B: jax.Array) -> jax.Array:
    write = jax.vmap(lambda cache_HSK, new_HTK, at: jax.lax.dynamic_update_slice_in_dim(cache_HSK, new_HTK, at, axis=1))
    return write(cache_BHSK, new_BHTK, position_B)


def _write_twice(cache_1HSK: jax.Array, new_1HTK: jax.Array, position_1: jax.Array) -> jax.Array:
    """``write_cache`` of one row, which is written two times, to the same place.

    A single write XLA takes apart on CPU: one for attention, one for the next turn of the loop, and so that neither is
    seen by the other, four copies of the whole cache a token (benchmarks/results/growth.md).
    """
    length = new_1HTK.shape[2]
    start_1 = jnp.clip(position_1, 0, cache_1HSK.shape[2] - length)
    at_2T = jnp.broadcast_to(start_1 + jnp.arange(length), (2, length))
    new_2THK = jnp.broadcast_to(new_1HTK.swapaxes(1, 2), (2, length, *new_1HTK.shape[1::2]))
    return cache_1HSK.at[0, :, at_2T].set(new_2THK, mode="promise_in_bounds")


def causal_weights(q_BHTK: jax.Array, k_BHTK: jax.Array) -> jax.Array:
    """What :func:`causal_attention` takes its means with, to look at: float32 [B, H, T, T], a query's weights over all
    positions in a row. They sum to 1, and those of later positions are 0."""
    positions_T = jnp.arange(q_BHTK.shape[2])
    return _weights(q_BHTK, k_BHTK, (positions_T[:, None] >= positions_T[None, :])[None, None])


def _weights(q_BHTK: jax.Array, k_BHSK: jax.Array, mask: jax.Array) -> jax.Array:
    q_BHTK = q_BHTK * q_BHTK.shape[-1] ** -0.5
    scores_BHTS = jnp.einsum("bhtk,bhsk->bhts", q_BHTK, k_BHSK, preferred_element_type=jnp.float32)
    scores_BHTS = jnp.where(mask, scores_BHTS, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores_BHTS, axis=-1)


def _attend(
    q_BHTK: jax.Array,
    k_BHSK: jax.Array,
    v_BHSK: jax.Array,
    mask: jax.Array,
    dropout: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    weights_BHTS = _weights(q_BHTK, k_BHSK, mask).astype(v_BHSK.dtype)
    if dropout_key is not None and dropout > 0.0:
        keep_BHTS = jax.random.bernoulli(dropout_key, 1.0 - dropout, weights_BHTS.shape)
        weights_BHTS = jnp.where(keep_BHTS, weights_BHTS / (1.0 - dropout), 0.0)
    return jnp.einsum("bhts,bhsk->bhtk", weights_BHTS, v_BHSK)
