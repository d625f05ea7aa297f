"""Attention against plain softmax attention in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import attention
from gpt2jax.attention import cached_attention, causal_attention
from tests.helpers import count_primitive, distance, equations

B, H, T, K = 2, 3, 17, 8


def random_qkv(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    arrays = np.random.default_rng(seed).normal(size=(3, B, H, T, K)) * 2
    q_BHTK, k_BHTK, v_BHTK = jnp.asarray(arrays, jnp.float32)
    return q_BHTK, k_BHTK, v_BHTK


def plain_attention(q_BHTK: Any, k_BHTK: Any, v_BHTK: Any, scale: float = K**-0.5, last_visible: int = 0) -> np.ndarray:
    """Softmax attention in float64; query t sees keys up to t + ``last_visible``."""
    q, k, v = (np.asarray(array, np.float64) for array in (q_BHTK, k_BHTK, v_BHTK))
    scores = np.einsum("bhtk,bhsk->bhts", q, k) * scale
    scores[..., np.arange(T)[None, :] > np.arange(T)[:, None] + last_visible] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bhsk->bhtk", weights, v)


@pytest.mark.parametrize("block", [3, 16, 17, 128])
def test_blocks_of_queries_equal_plain_softmax_attention(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    q_BHTK, k_BHTK, v_BHTK = random_qkv()
    out_BHTK = jax.jit(lambda *qkv: causal_attention(*qkv))(q_BHTK, k_BHTK, v_BHTK)
    assert out_BHTK.dtype == jnp.float32
    assert distance(out_BHTK, plain_attention(q_BHTK, k_BHTK, v_BHTK)) < 2e-6
    # The same comparison sees a missing scale, a look at the future and swapped keys and values.
    assert distance(out_BHTK, plain_attention(q_BHTK, k_BHTK, v_BHTK, scale=1.0)) > 1e-2
    assert distance(out_BHTK, plain_attention(q_BHTK, k_BHTK, v_BHTK, last_visible=1)) > 1e-2
    assert distance(out_BHTK, plain_attention(q_BHTK, v_BHTK, k_BHTK)) > 1e-2


def test_blocks_leave_out_keys_that_no_query_in_them_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    q_BHTK, k_BHTK, v_BHTK = random_qkv()

    def scores() -> int:
        # A function of its own each time: JAX keeps what it traced by function, whatever has been patched since.
        found = equations(jax.make_jaxpr(lambda *qkv: causal_attention(*qkv))(q_BHTK, k_BHTK, v_BHTK).jaxpr)
        return sum(int(equation.outvars[0].aval.size) for equation in found if equation.primitive.name == "exp")

    assert scores() == B * H * T * T
    monkeypatch.setattr(attention, "QUERY_BLOCK", 1)
    assert scores() == B * H * T * (T + 1) // 2


def test_a_cached_query_sees_what_its_row_of_causal_attention_sees() -> None:
    q_BHTK, k_BHTK, v_BHTK = random_qkv()
    whole_BHTK = plain_attention(q_BHTK, k_BHTK, v_BHTK)
    for position_B in ([0, 16], [7, 7], [16, 3]):
        rows = np.arange(B)
        q_BH1K = q_BHTK[rows, :, np.array(position_B)][:, :, None]
        # Entries after each row's position are not valid: whatever they hold must not matter.
        later_BHT1 = (np.arange(T)[None] > np.array(position_B)[:, None])[:, None, :, None]
        k_BHSK, v_BHSK = jnp.where(later_BHT1, 1e4, k_BHTK), jnp.where(later_BHT1, -1e4, v_BHTK)
        out_BH1K = cached_attention(q_BH1K, k_BHSK, v_BHSK, jnp.array(position_B, jnp.int32))
        assert distance(out_BH1K[:, :, 0], whole_BHTK[rows, :, np.array(position_B)]) < 2e-6
        off_by_one = cached_attention(q_BH1K, k_BHTK, v_BHTK, jnp.array(position_B, jnp.int32) - 1)
        assert not distance(off_by_one[:, :, 0], whole_BHTK[rows, :, np.array(position_B)]) < 1e-2


def test_softmax_is_float32_under_bfloat16() -> None:
    q_BHTK, k_BHTK, v_BHTK = (array.astype(jnp.bfloat16) for array in random_qkv())
    out_BHTK = causal_attention(q_BHTK, k_BHTK, v_BHTK)
    assert out_BHTK.dtype == jnp.bfloat16
    found = equations(jax.make_jaxpr(causal_attention)(q_BHTK, k_BHTK, v_BHTK).jaxpr)
    assert {equation.invars[0].aval.dtype for equation in found if equation.primitive.name == "exp"} == {
        jnp.dtype("float32")
    }
    q_BHTK, k_BHTK, v_BHTK = random_qkv()
    error = distance(out_BHTK.astype(jnp.float32), plain_attention(q_BHTK, k_BHTK, v_BHTK))
    assert 1e-4 < error < 0.1


def dropped_weights(rate: float, key: jax.Array | None, size: int = 64) -> np.ndarray:
    """Attention weights [B, H, T, S] after dropout, read off values that are the identity."""
    q_BHTK = jnp.zeros((2, 4, size, K), jnp.float32)  # Every visible key gets the same weight.
    v_BHTK = jnp.broadcast_to(jnp.eye(size)[None, None], (2, 4, size, size))
    return np.asarray(jax.jit(lambda q, k, v: causal_attention(q, k, v, rate, key))(q_BHTK, q_BHTK, v_BHTK))


@pytest.mark.parametrize("block", [16, 128])
def test_dropout_drops_weights_at_its_rate_and_scales_up_the_rest(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    size, rate = 64, 0.25
    full = dropped_weights(0.0, None)
    visible = np.tril(np.ones((size, size), bool))[None, None] & np.ones((2, 4, 1, 1), bool)
    dropped = dropped_weights(rate, jax.random.key(0))
    kept = dropped > 0
    assert not kept[~visible].any()
    assert np.allclose(dropped[kept], full[kept] / (1 - rate), rtol=1e-6)
    # 16,640 weights: four standard deviations are 0.0135.
    assert abs(1 - kept[visible].mean() - rate) < 0.0135
    # Another mask in every row, head and block.
    assert len({kept[b, h, t, :32].tobytes() for b in range(2) for h in range(4) for t in range(32, size)}) == 256


def test_dropout_is_a_function_of_its_key() -> None:
    first, again = dropped_weights(0.25, jax.random.key(0)), dropped_weights(0.25, jax.random.key(0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, dropped_weights(0.25, jax.random.key(1)))


def test_without_a_key_or_a_rate_nothing_is_dropped() -> None:
    q_BHTK, k_BHTK, v_BHTK = random_qkv()
    plain = causal_attention(q_BHTK, k_BHTK, v_BHTK)
    assert np.array_equal(causal_attention(q_BHTK, k_BHTK, v_BHTK, 0.5, None), plain)
    assert np.array_equal(causal_attention(q_BHTK, k_BHTK, v_BHTK, 0.0, jax.random.key(0)), plain)
    assert not np.array_equal(causal_attention(q_BHTK, k_BHTK, v_BHTK, 0.5, jax.random.key(0)), plain)
    assert count_primitive("random_bits", causal_attention, q_BHTK, k_BHTK, v_BHTK) == 0


def test_gradients_of_queries_keys_and_values_are_stacked_and_not_widened() -> None:
    qkv, weights = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 4, 3))

    def gradient(unstack: Any, weights: jax.Array) -> Any:
        def loss(qkv: jax.Array) -> jax.Array:
            return sum((jnp.sin(one) * weight).sum() for one, weight in zip(unstack(qkv), weights, strict=True))

        return jax.grad(loss)

    def one_by_one(qkv: jax.Array) -> list[jax.Array]:
        return [jax.lax.index_in_dim(qkv, number, keepdims=False) for number in range(3)]

    found, plain = gradient(attention.unstack, weights), gradient(one_by_one, weights)
    assert np.array_equal(found(qkv), plain(qkv))
    assert not np.allclose(found(qkv), gradient(one_by_one, weights[::-1])(qkv))  # Twin: another order.
    assert count_primitive("pad", found, qkv) == 0
    assert count_primitive("pad", plain, qkv) > 0  # Twin.
