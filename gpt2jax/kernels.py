"""Attention kernels of other hands, behind one signature: JAX's splash attention for TPU, cuDNN's for GPU.

Each takes queries, keys and values [B, H, T, K] of whole sequences and attends causally, softmax in float32, scores
scaled by 1/sqrt(K).
"""

import functools

import jax
import jax.numpy as jnp

from gpt2jax.partition import Partition


def splash_blocks(length: int) -> tuple[int, int]:
    """Positions that splash attention takes at once (its default, 128, is for the smallest of inputs), and keys that
    its backward pass takes at once: up to 1024, since it writes a gradient of all queries for each block of keys."""
    block = next(size for size in (512, 256, 128) if length % size == 0)
    return block, next(size for size in (1024, 512, 256, 128) if length % size == 0)


def splash_lacks(length: int) -> str | None:
    """Why splash attention cannot take sequences of this length, or None."""
    return f"it takes whole blocks of 128 positions, not {length}" if length % 128 else None


def splash_attention(
    q_BHTK: jax.Array,
    k_BHTK: jax.Array,
    v_BHTK: jax.Array,
    partition: Partition | None,
    segments_BT: jax.Array | None = None,
    *,
    interpret: bool,
) -> jax.Array:
    """``jax.experimental.pallas.ops.tpu.splash_attention``, each device over its own rows and heads.

    Args:
        partition: where the arrays lie; None: whole on one device. The compiler cannot cut a kernel by itself.
        segments_BT: integers; a position attends to those of its own number alone. None: all are of one.
        interpret: compute it without a TPU, slowly.
    """
    scaled_BHTK = q_BHTK * q_BHTK.shape[-1] ** -0.5  # The kernel does not scale.
    if partition is None:
        return _splash(scaled_BHTK, k_BHTK, v_BHTK, segments_BT, interpret=interpret)
    spec = partition.rules.spec("batch", "heads", None, None)
    specs = (spec, spec, spec, None if segments_BT is None else partition.rules.spec("batch", None))
    attend = functools.partial(_splash, interpret=interpret)
    # check_vma: Pallas does not say how its results vary over the mesh.
    return jax.shard_map(attend, mesh=partition.mesh, in_specs=specs, out_specs=spec, check_vma=False)(
        scaled_BHTK, k_BHTK, v_BHTK, segments_BT
    )


def _splash(
    q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array, segments_BT: jax.Array | None, *, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length = q_BHTK.shape[1:3]
    block, whole = splash_blocks(length)
    # Sequences as the minor axis: heads of 64 numbers would leave half of the 128 lanes empty.
    minor = splash.QKVLayout.SEQ_MINOR
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, use_fused_bwd_kernel=True,
        block_q_dkv=block, block_kv_dkv=whole, block_kv_dkv_compute=block,
        q_layout=minor, k_layout=minor, v_layout=minor,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.CausalMask((length, length)) for _ in range(heads)])
    kernel = splash.make_splash_mha(mask=mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    segments = None if segments_BT is None else splash.SegmentIds(segments_BT, segments_BT)
    return jax.vmap(kernel)(q_BHTK, k_BHTK, v_BHTK, segments)


def cudnn_lacks(head_dim: int, dtype: jnp.dtype) -> str | None:
    """Why cuDNN's attention cannot take these arrays, or is not there; None when it works."""
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it multiplies bfloat16 and float16, not {dtype}"
    if head_dim % 8 or head_dim > 128:
        return f"it takes heads of 8 to 128 numbers in steps of 8, not {head_dim}"
    return _cudnn_fails()


@functools.cache
def _cudnn_fails() -> str | None:
    """Try it once on this machine, forward and backward. Without a GPU, it is compiled for one that is elsewhere."""
    if jax.default_backend() != "gpu":
        return None

    def attend(q_BHTK: jax.Array) -> jax.Array:
        return cudnn_attention(q_BHTK, q_BHTK, q_BHTK).astype(jnp.float32).sum()

    try:
        with jax.ensure_compile_time_eval():
            jax.block_until_ready(jax.jit(jax.grad(attend))(jnp.ones((1, 1, 128, 64), jnp.bfloat16)))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).strip().splitlines()[0][:200]
    return None


def cudnn_attention(q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array) -> jax.Array:
    """``jax.nn.dot_product_attention`` by cuDNN: causal alone, since a mask would be stored as a bias [B, H, T, T].

    It is cut along batch and heads by itself.
    """
    q_BTHK, k_BTHK, v_BTHK = (array.transpose(0, 2, 1, 3) for array in (q_BHTK, k_BHTK, v_BHTK))
    out_BTHK = jax.nn.dot_product_attention(q_BTHK, k_BTHK, v_BTHK, is_causal=True, implementation="cudnn")
    return out_BTHK.transpose(0, 2, 1, 3)
