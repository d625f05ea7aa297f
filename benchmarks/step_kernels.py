"""A trial: parts of the training step on one NVIDIA GPU in other forms, two of them Pallas kernels, which Triton
compiles and a CPU interprets.

What XLA makes of these parts moves more bytes than they hold, or waits for arithmetic (benchmarks/log_gpu.md). No GPU
has run what is here: `python -m benchmarks.gpu_step_trial` compares it with the step as it is, in numbers and in time.
What holds there has its place in the package.

Letters as in gpt2jax/model.py; N are positions of all rows, R and C those and the numbers of each that a program reads
at once.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gpt2jax import model, ops
from gpt2jax.train import objective

# Rows that a program of the norm's gradient reads at once, its warps, and how many programs there are.
NORM_ROWS, NORM_WARPS, NORM_PROGRAMS = 4, 8, 264
# Logits that a program of the loss reads at once, and its warps.
LOSS_CHUNK, LOSS_WARPS = 4096, 8
LOWEST = -1e30


def gelu(x: jax.Array) -> jax.Array:
    """GELU's tanh form as ``x`` times a logistic function, by an exponential and a reciprocal square root: XLA's tanh
    takes a quotient of polynomials."""
    x32 = x.astype(jnp.float32)
    return (x32 * _logistic(x32)).astype(x.dtype)


def _logistic(x32: jax.Array) -> jax.Array:
    root = jax.lax.rsqrt(1 + jnp.exp(-2 * (2 / math.pi) ** 0.5 * (x32 + 0.044715 * x32 * x32 * x32)))
    return root * root


def _gelu_backward(x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    x32 = x.astype(jnp.float32)
    share = _logistic(x32)
    slope = share + x32 * share * (1 - share) * 2 * (2 / math.pi) ** 0.5 * (1 + 3 * 0.044715 * x32 * x32)
    return ((grad.astype(jnp.float32) * slope).astype(x.dtype),)


quick_gelu = jax.custom_vjp(gelu)
quick_gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def beside_norm(x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """``x_BTD`` as it is and normed. Its gradient, of the residual stream and of the branch, is one kernel: it reads
    states and both gradients once, and sums those of scale and bias on the way."""
    return x_BTD, ops.layer_norm(x_BTD, scale_D, bias_D, epsilon)


def _beside_forward(x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> tuple[Any, Any]:
    return beside_norm(x_BTD, scale_D, bias_D, epsilon), (x_BTD, scale_D)


def _beside_backward(epsilon: float, kept: Any, grads: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
    x_BTD, scale_D = kept
    width = x_BTD.shape[-1]
    arrays = [array.reshape(-1, width) for array in (x_BTD, *grads)]
    run = pl.pallas_call(
        functools.partial(_norm_gradient, rows=NORM_ROWS, programs=NORM_PROGRAMS, epsilon=epsilon),
        out_shape=(
            jax.ShapeDtypeStruct(arrays[0].shape, x_BTD.dtype),
            jax.ShapeDtypeStruct((NORM_PROGRAMS, 2, width), jnp.float32),
        ),
        grid=(NORM_PROGRAMS,),
        compiler_params=triton.CompilerParams(num_warps=NORM_WARPS),
        interpret=jax.default_backend() != "gpu",
        name="norm_gradient",
    )
    grad_ND, sums = run(*arrays, scale_D)
    scale_grad_D, bias_grad_D = sums.sum(0)
    return grad_ND.reshape(x_BTD.shape), scale_grad_D, bias_grad_D


beside_norm.defvjp(_beside_forward, _beside_backward)


def _norm_gradient(
    x: Any, beside: Any, grad: Any, scale: Any, out: Any, sums: Any, *, rows: int, programs: int, epsilon: float
) -> None:
    (count, width), program = x.shape, pl.program_id(0)
    at_C = jnp.arange(1 << (width - 1).bit_length())
    inside_C = at_C < width
    scale_C = triton.load(scale.at[at_C], mask=inside_C, other=0.0)

    def turn(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        at_R = (program + number * programs) * rows + jnp.arange(rows)
        mask_RC, at_RC = (at_R < count)[:, None] & inside_C[None, :], (at_R[:, None], at_C[None, :])

        def load(array: Any) -> jax.Array:
            loaded: jax.Array = triton.load(array.at[at_RC], mask=mask_RC, other=0.0)
            return loaded.astype(jnp.float32)

        def mean(array_RC: jax.Array) -> jax.Array:
            return jnp.sum(array_RC, axis=1, keepdims=True) / width

        x_RC, grad_RC = load(x), load(grad)
        centred_RC = jnp.where(inside_C[None, :], x_RC - mean(x_RC), 0.0)
        rstd_R1 = jax.lax.rsqrt(mean(centred_RC * centred_RC) + epsilon)
        normed_RC, inner_RC = centred_RC * rstd_R1, grad_RC * scale_C[None, :]
        found_RC = rstd_R1 * (inner_RC - mean(inner_RC) - normed_RC * mean(inner_RC * normed_RC))
        triton.store(out.at[at_RC], (load(beside) + found_RC).astype(out.dtype), mask=mask_RC)
        return carry[0] + grad_RC * normed_RC, carry[1] + grad_RC

    zero_RC = jnp.zeros((rows, at_C.size), jnp.float32)
    found = jax.lax.fori_loop(0, pl.cdiv(count, rows * programs), turn, (zero_RC, zero_RC))
    for number, sum_RC in enumerate(found):
        triton.store(sums.at[program, number, at_C], jnp.sum(sum_RC, axis=0), mask=inside_C)


def cross_entropy(
    logits_BTV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, n_vocab: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of losses and its gradient by the logits, in ``dtype``: the logits leave memory once, for their
    log-sum-exp, and are still near for the gradient."""
    logits_NV = logits_BTV.reshape(-1, logits_BTV.shape[-1])
    run = pl.pallas_call(
        functools.partial(_cross_entropy, chunk=LOSS_CHUNK, n_vocab=n_vocab),
        out_shape=(
            jax.ShapeDtypeStruct(logits_NV.shape[:1], jnp.float32),
            jax.ShapeDtypeStruct(logits_NV.shape, dtype),
        ),
        grid=logits_NV.shape[:1],
        compiler_params=triton.CompilerParams(num_warps=LOSS_WARPS),
        interpret=jax.default_backend() != "gpu",
        name="cross_entropy",
    )
    loss_N, error_NV = run(logits_NV, targets_BT.reshape(-1), weights_BT.reshape(-1))
    return jnp.sum(loss_N), error_NV.reshape(logits_BTV.shape)


def _cross_entropy(logits: Any, targets: Any, weights: Any, loss: Any, error: Any, *, chunk: int, n_vocab: int) -> None:
    row, size = pl.program_id(0), logits.shape[1]
    target, weight = targets[row], weights[row]

    def load(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        at_C = number * chunk + jnp.arange(chunk)
        return at_C, triton.load(logits.at[row, at_C], mask=at_C < n_vocab, other=LOWEST)

    def read(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Each place of a chunk has a largest logit and a sum of its own, so that none waits for another."""
        (at_C, logit_C), (largest_C, sum_C, wanted_C) = load(number), carry
        larger_C = jnp.maximum(largest_C, logit_C)
        sum_C = sum_C * jnp.exp(largest_C - larger_C) + jnp.exp(logit_C - larger_C)
        return larger_C, sum_C, wanted_C + jnp.where(at_C == target, logit_C, 0.0)

    def write(number: jax.Array, normaliser: jax.Array) -> jax.Array:
        at_C, logit_C = load(number)
        error_C = weight * (jnp.exp(logit_C - normaliser) - (at_C == target).astype(jnp.float32))
        triton.store(error.at[row, at_C], error_C.astype(error.dtype), mask=at_C < size)
        return normaliser

    chunks, zero_C = pl.cdiv(size, chunk), jnp.zeros(chunk, jnp.float32)
    largest_C, sum_C, wanted_C = jax.lax.fori_loop(0, chunks, read, (zero_C + LOWEST, zero_C, zero_C))
    largest = jnp.max(largest_C)
    normaliser = largest + jnp.log(jnp.sum(sum_C * jnp.exp(largest_C - largest)))
    loss[row] = weight * (normaliser - jnp.sum(wanted_C))
    jax.lax.fori_loop(0, chunks, write, normaliser)


def _positions_first(
    x_BTD: jax.Array, table_VD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, *, n_vocab: int, partition: Any
) -> objective.Graded:
    """As gpt2jax.train.objective's."""
    logits_BTV = model.logits({"wte": table_VD}, x_BTD, partition)
    total, error_BTV = cross_entropy(logits_BTV, targets_BT, weights_BT, n_vocab, x_BTD.dtype)
    x_grad_BTD = jnp.einsum("btv,vd->btd", error_BTV, table_VD)
    return total, x_grad_BTD, jnp.einsum("btv,btd->vd", error_BTV, x_BTD, preferred_element_type=jnp.float32)


class _Norm(model.LayerNorm):
    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> Any:
        scale_D, bias_D = self.row(f"{self.rows}/scale"), self.row(f"{self.rows}/bias")
        return beside_norm(x_BTD, scale_D, bias_D, self.config.layer_norm_epsilon)


class _Block(model._Placed):
    """As gpt2jax.model's, without dropout and cache."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *rest: Any) -> tuple[jax.Array, Any]:
        x_BTD, normed_BTD = _Norm(self.config, "h/ln_1", name="ln_1")(x_BTD)
        branch_BTD, cache = model.Attention(self.config, self.partition, name="attn")(normed_BTD, *rest)
        x_BTD, normed_BTD = _Norm(self.config, "h/ln_2", name="ln_2")(x_BTD + branch_BTD)
        return x_BTD + model.Mlp(self.config, self.partition, name="mlp")(normed_BTD), cache


PARTS: dict[str, tuple[Any, str, Any]] = {
    "gelu": (model, "gelu", quick_gelu),
    "norm": (model, "Block", _Block),
    "loss": (objective, "_positions_first", _positions_first),
}


@contextlib.contextmanager
def in_place(*parts: str) -> Iterator[None]:
    """Steps that are traced meanwhile have these :data:`PARTS`."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            where, name, what = PARTS[part]
            stack.enter_context(mock.patch.object(where, name, what))
        yield
