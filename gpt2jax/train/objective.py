"""The objective: next-token cross-entropy, as a sum and a count."""

import jax
import jax.numpy as jnp

from gpt2jax import model
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition


def loss_sum(
    params: Params,
    window_BT1: jax.Array,
    config: ModelConfig,
    *,
    chunk: int,
    weights_BT: jax.Array | None = None,
    partition: Partition | None = None,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy in nats of every token of a window given those before it, and how many were summed.

    Sum and count are returned apart, so that micro-batches and devices with unequal numbers of tokens are divided
    once, at the end.

    Args:
        window_BT1: integer tokens [B, T + 1]; the last T are the targets of the first T.
        chunk: positions whose float32 logits [B, chunk, V] exist at once, forward and backward.
        weights_BT: float32 weight of each target; 0 keeps it out of the loss. Default: all 1.

    Returns:
        Two float32 scalars: sum of weighted losses, sum of weights.
    """
    tokens_BT, targets_BT = window_BT1[:, :-1], window_BT1[:, 1:]
    if weights_BT is None:
        weights_BT = jnp.ones(targets_BT.shape, jnp.float32)
    x_BTD = model.final_states(params, tokens_BT, config, partition=partition, dropout_key=dropout_key)
    table_VD = params["wte"].astype(x_BTD.dtype)
    if partition:  # Gathered once, and its gradient sent once, not for each chunk.
        table_VD = partition.constrain(table_VD, "logits", "table")

    if partition:
        # For the logits, gathered over fsdp alone and once for all chunks. Left to the compiler, every chunk gathered
        # it anew, forward and backward, and where fsdp and tensor both cut it, whole onto every device.
        params = params | {"wte": partition.constrain(params["wte"], "logits", "table")}

    def part(x_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array) -> jax.Array:
        logits_BTV = model.logits({"wte": table_VD}, x_BTD, partition)
        real_V = jnp.arange(logits_BTV.shape[-1]) < config.n_vocab
        logits_BTV = jnp.where(real_V[None, None], logits_BTV, jnp.finfo(jnp.float32).min)
        target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1, mode="fill")[..., 0]
        return jnp.sum(weights_BT * (jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT))

    length = targets_BT.shape[1]
    count = jnp.sum(weights_BT)
    if length <= chunk:
        return part(x_BTD, targets_BT, weights_BT), count

    whole = length - length % chunk

    def chunked(array: jax.Array) -> jax.Array:  # [B, T, ...] -> [T / chunk, B, chunk, ...]
        parts = array[:, :whole].reshape(array.shape[0], -1, chunk, *array.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    # The backward pass computes each chunk's logits again rather than keep them.
    part = jax.checkpoint(part, prevent_cse=False)

    def body(total: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return total + part(*xs), None

    arrays = (x_BTD, targets_BT, weights_BT)
    total, _ = jax.lax.scan(body, jnp.zeros((), jnp.float32), tuple(map(chunked, arrays)))
    if whole < length:
        total = total + part(*(array[:, whole:] for array in arrays))
    return total, count
