"""The objective: next-token cross-entropy, as a sum and a count."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, one_device


def loss_sum(
    params: Params,
    window_BT1: jax.Array,
    config: ModelConfig,
    *,
    chunk: int,
    weights_BT: jax.Array | None = None,
    partition: Partition | None = None,
    dropout_key: jax.Array | None = None,
    document_start: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy in nats of every token of a window given those before it, and how many were summed.

    Sum and count are returned apart, so that micro-batches and devices with unequal numbers of tokens are divided
    once, at the end.

    Args:
        window_BT1: integer tokens [B, T + 1]; the last T are the targets of the first T.
        chunk: positions whose float32 logits [B, chunk, V] exist at once.
        weights_BT: float32 weight of each target; 0 keeps it out of the loss. Default: all 1. It gets no gradient.
        document_start: the token with which a document begins: attention is then confined to it (:func:`segments`).

    Returns:
        Two float32 scalars: sum of weighted losses, sum of weights.
    """
    tokens_BT, targets_BT = window_BT1[:, :-1], window_BT1[:, 1:]
    if weights_BT is None:
        weights_BT = jnp.ones(targets_BT.shape, jnp.float32)
    if partition:
        # The token table, gathered over fsdp alone and once, for embedding and logits. Left to the compiler, every
        # chunk gathered it anew, forward and backward, and where fsdp and tensor both cut it, whole onto every device.
        params = params | {"wte": partition.constrain(params["wte"], "logits", "table")}
    x_BTD = model.final_states(
        params,
        tokens_BT,
        config,
        partition=partition,
        dropout_key=dropout_key,
        segments_BT=None if document_start is None else segments(tokens_BT, document_start),
    )
    table_VD = params["wte"].astype(x_BTD.dtype)
    total = _cross_entropy(x_BTD, table_VD, targets_BT, weights_BT, config.n_vocab, chunk, partition)
    return total, jnp.sum(weights_BT)


def tokens_and_weights(window: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Tokens [B, T + 1] and target weights [B, T] of a batch's windows: [B, T + 1], without weights, or
    [B, 2, T + 1], as :class:`gpt2jax.data.documents.DocumentWindows` makes them."""
    if window.ndim == 2:
        return window, None
    return window[:, 0], window[:, 1, 1:].astype(jnp.float32)


def segments(tokens_BT: jax.Array, document_start: int) -> jax.Array:
    """Of each position the number of its document in the window [B, T], int32.

    ``<|endoftext|>`` is the first token of what follows it, in nanoGPT's format too, where it stands after each
    document. So it is all that a document's first token is predicted from, as where text is written without a prompt.
    """
    return jnp.cumsum(tokens_BT == document_start, axis=1, dtype=jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _cross_entropy(
    x_BTD: jax.Array,
    table_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    n_vocab: int,
    chunk: int,
    partition: Partition | None,
) -> jax.Array:
    """The weighted sum, a chunk of positions at a time.

    Its gradient is written out: it is made beside the sum, from the same logits, which are then neither kept nor
    computed a second time. Reverse mode only; weights get no gradient.
    """
    return _by_chunks(x_BTD, table_VD, targets_BT, weights_BT, n_vocab, chunk, partition, graded=False)[0]


def _cross_entropy_forward(
    x_BTD: jax.Array, table_VD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, *static: Any
) -> tuple[jax.Array, Any]:
    total, x_grad_BTD, table_grad_VD = _by_chunks(x_BTD, table_VD, targets_BT, weights_BT, *static, graded=True)
    return total, (x_grad_BTD, table_grad_VD, table_VD[:0])


def _cross_entropy_backward(*args: Any) -> tuple[jax.Array, jax.Array, None, None]:
    *_, (x_grad_BTD, table_grad_VD, table_0D), grad = args
    x_grad_BTD = (x_grad_BTD.astype(jnp.float32) * grad).astype(x_grad_BTD.dtype)
    return x_grad_BTD, (table_grad_VD * grad).astype(table_0D.dtype), None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _by_chunks(
    x_BTD: jax.Array,
    table_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    n_vocab: int,
    chunk: int,
    partition: Partition | None,
    *,
    graded: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sum and, if ``graded``, its gradients by states [B, T, D] and table [V, D] (float32); else empty ones."""

    def part(sums: tuple[jax.Array, jax.Array], xs: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        total, table_grad_VD = sums
        x_BTD, targets_BT, weights_BT = xs
        arrays = x_BTD, table_VD, targets_BT, weights_BT
        if not graded:
            logits_BTV = model.logits({"wte": table_VD}, x_BTD, partition)
            return (total + _losses(logits_BTV, targets_BT, weights_BT, n_vocab, 2)[0], table_grad_VD), x_BTD[..., :0]
        positions_first = functools.partial(_positions_first, n_vocab=n_vocab, partition=partition)
        if one_device(partition) and table_VD.size > x_BTD.size and x_BTD.dtype == jnp.float32:
            vocabulary_first = functools.partial(_vocabulary_first, n_vocab=n_vocab)
            found = jax.lax.platform_dependent(*arrays, cpu=vocabulary_first, default=positions_first)
        else:
            found = positions_first(*arrays)
        added, x_grad_BTD, added_VD = found
        return (total + added, table_grad_VD + added_VD), x_grad_BTD

    width, length = x_BTD.shape[-1] if graded else 0, targets_BT.shape[1]
    sums = (jnp.zeros((), jnp.float32), jnp.zeros((table_VD.shape[0], width), jnp.float32))
    arrays = (x_BTD, targets_BT, weights_BT)
    if length <= chunk:
        sums, x_grad_BTD = part(sums, arrays)
        return sums[0], x_grad_BTD, sums[1]

    whole = length - length % chunk

    def chunked(array: jax.Array) -> jax.Array:  # [B, T, ...] -> [T / chunk, B, chunk, ...]
        parts = array[:, :whole].reshape(array.shape[0], -1, chunk, *array.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    sums, parts_NBTD = jax.lax.scan(part, sums, tuple(map(chunked, arrays)))
    x_grad_BTD = jnp.moveaxis(parts_NBTD, 0, 1).reshape(x_BTD.shape[0], whole, width)
    if whole < length:
        sums, rest_BTD = part(sums, tuple(array[:, whole:] for array in arrays))
        x_grad_BTD = jnp.concatenate([x_grad_BTD, rest_BTD], axis=1)
    return sums[0], x_grad_BTD, sums[1]


Graded = tuple[jax.Array, jax.Array, jax.Array]
"""A sum of losses, and its gradients by states [B, T, D] and table [V, D]."""


def _positions_first(
    x_BTD: jax.Array,
    table_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    n_vocab: int,
    partition: Partition | None,
) -> Graded:
    logits_BTV = model.logits({"wte": table_VD}, x_BTD, partition)
    total, logits_BTV, normaliser_BT1 = _losses(logits_BTV, targets_BT, weights_BT, n_vocab, 2)
    error_BTV = _errors(logits_BTV, normaliser_BT1, targets_BT, weights_BT, 2).astype(x_BTD.dtype)
    x_grad_BTD = jnp.einsum("btv,vd->btd", error_BTV, table_VD)
    return total, x_grad_BTD, jnp.einsum("btv,btd->vd", error_BTV, x_BTD, preferred_element_type=jnp.float32)


def _vocabulary_first(
    x_BTD: jax.Array, table_VD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, *, n_vocab: int
) -> Graded:
    """The same for a CPU and a table that is larger than the states. With a table of 50,304 rows as its second side, a
    product takes Eigen, which does it in the step (``gpt2jax/train/step.py``), up to four times as long; and to turn
    scores around after it takes longer than the softmax (benchmarks/log.md).

    Rows and positions become one axis, so that products are of two matrices: of more axes, the compiler copies one.
    """
    x_ND, targets_N, weights_N = x_BTD.reshape(-1, x_BTD.shape[-1]), targets_BT.reshape(-1), weights_BT.reshape(-1)
    logits_VN = jnp.einsum("vd,nd->vn", table_VD, x_ND)
    total, logits_VN, normaliser_1N = _losses(logits_VN, targets_N, weights_N, n_vocab, 0)
    error_VN = _errors(logits_VN, normaliser_1N, targets_N, weights_N, 0)
    x_grad_BTD = jnp.einsum("vn,vd->nd", error_VN, table_VD).reshape(x_BTD.shape)
    return total, x_grad_BTD, jnp.einsum("vn,nd->vd", error_VN, x_ND)


def _losses(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, n_vocab: int, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weighted sum of losses; with it, for :func:`_errors`, the logits without those that stand for no token, and
    their log-sum-exp. The vocabulary is along ``axis`` of the logits; targets and weights have the other axes."""
    numbers = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis)
    logits = jnp.where(numbers < n_vocab, logits, jnp.finfo(jnp.float32).min)
    target = jnp.take_along_axis(logits, jnp.expand_dims(targets, axis), axis=axis, mode="fill")
    normaliser = jax.nn.logsumexp(logits, axis=axis, keepdims=True)
    return jnp.sum(weights * (normaliser - target).squeeze(axis)), logits, normaliser


def _errors(logits: jax.Array, normaliser: jax.Array, targets: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """The gradient of the sum by the logits, float32."""
    numbers = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis)
    wanted = (numbers == jnp.expand_dims(targets, axis)).astype(jnp.float32)
    return jnp.expand_dims(weights, axis) * (jnp.exp(logits - normaliser) - wanted)
