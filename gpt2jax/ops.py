"""Dense layers' products, layer norm and GELU, with gradients so written that a CPU computes them well or little is
kept for the backward pass; scores against the token table; work on positions that is done a chunk of them at a time."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Entries of a kernel from which on its gradient is quicker as it is derived, of two matrices, than written out
# (benchmarks/log.md).
LARGE_KERNEL = 150_000
# States up to which a turned kernel comes before them in its product; with the token table, whose scores are then
# turned around, that pays up to model.FEW_STATES.
FEW_ROWS = 64


def product(einsum: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``jnp.einsum(einsum, x, kernel)``, of states and a dense layer's kernel, in the form that a CPU differentiates
    well. Reverse mode only.

    Where the axes allow it, a large kernel is multiplied as a matrix, on every platform: arrays of more axes a CPU's
    compiler copies before it multiplies them, which costs more than what the rest is for. The rest is that the gradient
    by the kernel, the product of a transpose, is written out: derived automatically, the compiler takes a slower
    program for it than for other products, or transposes the larger of the two.
    """
    _, ins, _, are_matrices = _axes(einsum)
    if are_matrices and kernel.size >= LARGE_KERNEL:
        rows, shape = x.shape[: x.ndim - len(ins)], kernel.shape[len(ins) :]
        width = math.prod(kernel.shape[: len(ins)])
        return (x.reshape(-1, width) @ kernel.reshape(width, -1)).reshape(*rows, *shape)
    # The product itself stays in sight of rematerialisation policies, to which a function with a gradient of its own is
    # no product.
    return _kernel_gradient(einsum, jnp.einsum(einsum, x, jax.lax.stop_gradient(kernel)), x, kernel)


def _axes(einsum: str) -> tuple[str, str, str, bool]:
    """Of states and kernel: rows, what is summed over, what comes out; whether each is one run of axes everywhere, so
    that all three arrays are matrices."""
    (left, right), out = einsum.split("->")[0].split(","), einsum.split("->")[1]
    rows, ins = "".join(axis for axis in left if axis in out), "".join(axis for axis in left if axis in right)
    outs = right.removeprefix(ins)
    return rows, ins, outs, (left, right, out) == (rows + ins, ins + outs, rows + outs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(einsum: str, out: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``out``, as it is; under differentiation it is what gives ``kernel`` its gradient."""
    return out


def _product_forward(einsum: str, out: Any, x: Any, kernel: Any) -> tuple[jax.Array, jax.Array | None]:
    return out.value, x.value if kernel.perturbed else None


def _product_backward(einsum: str, x: jax.Array | None, grad: Any) -> tuple[Any, None, jax.Array | None]:
    if isinstance(grad, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    if x is None:
        return grad, None, None
    left, (right, out) = einsum.split(",")[0], einsum.split(",")[1].split("->")
    rows, ins, outs, _ = _axes(einsum)

    def derived(x: jax.Array, grad: jax.Array) -> jax.Array:
        return jnp.einsum(f"{left},{out}->{right}", x, grad)

    def on_cpu(x: jax.Array, grad: jax.Array) -> jax.Array:
        # The smaller is transposed, by itself: without barriers the compiler turns all of it to what it was.
        alone = jax.lax.optimization_barrier
        if x.size <= grad.size:
            return jnp.einsum(f"{ins}{rows},{out}->{right}", alone(jnp.einsum(f"{left}->{ins}{rows}", x)), grad)
        turned = alone(jnp.einsum(f"{out}->{outs}{rows}", grad))
        return jnp.einsum(f"{outs}{ins}->{right}", alone(jnp.einsum(f"{outs}{rows},{left}->{outs}{ins}", turned, x)))

    return grad, None, jax.lax.platform_dependent(x, grad, cpu=on_cpu, default=derived)


# With symbolic zeros it is known which arguments are learned: beside adapters, kernels are not.
_kernel_gradient.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


def turned_product(einsum: str, x: jax.Array, turned: jax.Array) -> jax.Array:
    """``jnp.einsum(einsum, x, kernel)`` of a kernel that is given ``turned``, its outputs before its inputs.

    XLA's CPU programs read it in the order in which it lies: gpt2 decodes in 0.79 to 0.89 of the time. For 2 to
    :data:`FEW_ROWS` states the kernel comes first, which they multiply faster still (benchmarks/log.md).
    """
    left, out = einsum.split(",")[0], einsum.split("->")[1]
    rows, ins, outs, _ = _axes(einsum)
    x = jnp.einsum(f"{left}->{rows}{ins}", x)
    shape = (*x.shape[: len(rows)], *turned.shape[: len(outs)])
    # As matrices: with more axes the compiler copies the kernel, each time.
    x_NI = x.reshape(math.prod(x.shape[: len(rows)]), -1)
    turned_OI = turned.reshape(-1, x_NI.shape[1])
    if 1 < len(x_NI) <= FEW_ROWS:
        out_ON = jnp.einsum("oi,ni->on", turned_OI, x_NI)
        out_NO = jax.lax.optimization_barrier(out_ON).T  # Without it the compiler turns the product around again.
    else:
        out_NO = jnp.einsum("ni,oi->no", x_NI, turned_OI)
    return jnp.einsum(f"{rows}{outs}->{out}", out_NO.reshape(shape))


def scores(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """Scores [B, T, V] in float32 of states against every row of a table, for programs of one device with few states.

    In float32 on CPU the larger side comes first: up to 64 states of 768 and a table of 50,304 rows take less time so,
    and more take longer (benchmarks/log.md).
    """

    def states_first(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
        return jnp.einsum("btd,vd->btv", x_BTD, table_VD, preferred_element_type=jnp.float32)

    def table_first(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
        scores_VBT = jnp.einsum("vd,btd->vbt", table_VD, x_BTD, preferred_element_type=jnp.float32)
        # Without the barrier the compiler turns the product around again.
        return jnp.moveaxis(jax.lax.optimization_barrier(scores_VBT), 0, -1)

    if table_VD.size <= x_BTD.size or x_BTD.dtype != jnp.float32:
        return states_first(x_BTD, table_VD)
    return jax.lax.platform_dependent(x_BTD, table_VD, cpu=table_first, default=states_first)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm over D with the biased variance, in float32 (openai/gpt-2, src/model.py, ``norm``); the result is in
    the dtype of ``x_BTD``.

    Its gradient is written out, so that the backward pass keeps ``x_BTD`` as it came and reads it twice; derived
    automatically, it made a small model's step on CPU a seventh slower. Reverse mode only.
    """
    return _layer_norm_forward(x_BTD, scale_D, bias_D, epsilon)[0]


def _layer_norm_forward(x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> tuple[Any, Any]:
    mean_BT1 = x_BTD.astype(jnp.float32).mean(-1, keepdims=True)
    centred_BTD = x_BTD.astype(jnp.float32) - mean_BT1
    rstd_BT1 = jax.lax.rsqrt(jnp.square(centred_BTD).mean(-1, keepdims=True) + epsilon)
    y_BTD = centred_BTD * rstd_BT1 * scale_D[None, None] + bias_D[None, None]
    return y_BTD.astype(x_BTD.dtype), (x_BTD, mean_BT1, rstd_BT1, scale_D)


def _layer_norm_backward(epsilon: float, kept: Any, grad_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x_BTD, mean_BT1, rstd_BT1, scale_D = kept
    normed_BTD = (x_BTD.astype(jnp.float32) - mean_BT1) * rstd_BT1
    grad_BTD = grad_BTD.astype(jnp.float32)
    inner_BTD = grad_BTD * scale_D[None, None]
    projected_BT1 = (inner_BTD * normed_BTD).mean(-1, keepdims=True)
    x_grad_BTD = rstd_BT1 * (inner_BTD - inner_BTD.mean(-1, keepdims=True) - normed_BTD * projected_BT1)
    return x_grad_BTD.astype(x_BTD.dtype), (grad_BTD * normed_BTD).sum((0, 1)), grad_BTD.sum((0, 1))


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


_GELU = (2 / math.pi) ** 0.5


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The tanh form of GELU (openai/gpt-2, src/model.py, ``gelu``).

    Its gradient is written out, so that the backward pass keeps ``x`` alone: derived automatically, it kept four arrays
    of the MLP's width. Reverse mode only.
    """
    return jax.nn.gelu(x, approximate=True)


def _gelu_backward(x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    tanh = jnp.tanh(_GELU * (x + 0.044715 * x * x * x))
    slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * _GELU * (1 + 3 * 0.044715 * x * x)
    return (grad * slope,)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def map_positions(function: Callable[..., Any], size: int, *arrays: jax.Array) -> Any:
    """``function(*arrays)``, computed for ``size`` positions at a time, so that what it makes on the way is small.

    Args:
        function: takes arrays [B, C, ...] and returns a tree of such; of each position by itself.
        arrays: [B, T, ...], one or more.

    Returns:
        A tree of arrays [B, T, ...].
    """
    length = arrays[0].shape[1]
    if length <= size:
        return function(*arrays)

    def chunk(first: jax.Array) -> Any:
        return function(*[jax.lax.dynamic_slice_in_dim(array, first, size, 1) for array in arrays])

    # One after the other; where the length is no multiple of the size, the last one overlaps the one before.
    starts = np.minimum(np.arange(0, length, size), length - size)
    chunks = jax.lax.map(chunk, jnp.array(starts))
    places = np.arange(length) // size
    within = np.arange(length) - starts[places]
    return jax.tree.map(lambda array: array[places, :, within].swapaxes(0, 1), chunks)
