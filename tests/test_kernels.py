"""Which attention kernel runs, and that splash attention, interpreted here, computes what ours does."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from gpt2jax import attention, kernels, model, parameters
from gpt2jax.attention import causal_attention, choose, kernel_here
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import decoding_params
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.objective import loss_sum
from tests.helpers import count_primitive, distance, place_on, random_tokens, relative_distance

CONFIG = ModelConfig(n_vocab=257, n_ctx=256, n_embd=32, n_head=4, n_layer=2)
BFLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)


def asked(name: str, **changes: object) -> ModelConfig:
    return dataclasses.replace(CONFIG, attention=name, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("platform", "length", "dropout", "kernel", "note"),
    [
        ("cpu", 256, False, "xla", ""),
        ("tpu", 1024, False, "splash", ""),
        ("tpu", 128, False, "splash", ""),
        ("tpu", 1000, False, "xla", "not splash: it takes whole blocks of 128 positions, not 1000"),
        ("tpu", 1024, True, "xla", "not splash: it drops no attention weights (model.dropout)"),
        ("gpu", 1024, False, "cudnn", ""),  # Where these tests run there is none: it is planned for.
        ("gpu", 1024, True, "xla", "not cudnn: it drops no attention weights (model.dropout)"),
    ],
)
def test_auto_takes_the_fast_kernel_where_it_can_and_says_why_not(
    platform: str, length: int, dropout: bool, kernel: str, note: str
) -> None:
    assert choose(asked("auto"), length, BFLOAT16, platform, dropout) == (kernel, note)


@pytest.mark.parametrize(
    ("name", "dtype", "platform", "dropout", "message"),
    [
        ("cudnn", FLOAT32, "gpu", False, "'cudnn': it multiplies bfloat16 and float16, not float32"),
        ("cudnn", BFLOAT16, "cpu", False, "'cudnn': there is no GPU; should be 'auto' or 'xla'"),
        ("cudnn", BFLOAT16, "gpu", True, "'cudnn': it drops no attention weights"),
        ("splash", BFLOAT16, "gpu", False, "'splash': there is no TPU"),
        ("splash", BFLOAT16, "tpu", True, "'splash': it drops no attention weights"),
    ],
)
def test_a_kernel_that_is_named_and_cannot_is_an_error(
    name: str, dtype: jnp.dtype, platform: str, dropout: bool, message: str
) -> None:
    with pytest.raises(GPT2JaxError, match=r"^model.attention: ") as caught:
        choose(asked(name), 256, dtype, platform, dropout)
    assert message in str(caught.value)


def test_a_cudnn_that_fails_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(*_: object, **__: object) -> jax.Array:
        tried.append(1)
        raise RuntimeError("cuDNN is not detected.\nmore")

    kernels._cudnn_fails.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", fail)
    for _ in range(2):
        assert choose(asked("auto"), 256, BFLOAT16, "gpu", False) == ("xla", "not cudnn: cuDNN is not detected.")
    assert len(tried) == 1
    kernels._cudnn_fails.cache_clear()


def test_cudnn_is_given_what_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions before heads, causal, no mask; computed here by the same function's other implementation."""
    function = jax.nn.dot_product_attention

    def by_xla(*arrays: jax.Array, is_causal: bool, implementation: str) -> jax.Array:
        assert implementation == "cudnn"
        return function(*arrays, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    qkv = random_qkv(64)
    assert relative_distance(kernels.cudnn_attention(*qkv), causal_attention(*qkv)) < 2e-6
    assert distance(kernels.cudnn_attention(qkv[0], qkv[2], qkv[1]), causal_attention(*qkv)) > 1e-2


def random_qkv(length: int, heads: int = 4, rows: int = 4) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v = 2 * jax.random.normal(jax.random.key(0), (3, rows, heads, length, 8))
    return q, k, v


@pytest.mark.parametrize("length", [128, 384])
@pytest.mark.parametrize("mesh", [None, (2, 2, 2)])
def test_splash_attention_and_its_gradients_are_those_of_ours(length: int, mesh: tuple[int, int, int] | None) -> None:
    place = None if mesh is None else place_on(*mesh)
    weight = jax.random.normal(jax.random.key(1), (4, 4, length, 8))

    def splash(scale: float, *qkv: jax.Array) -> jax.Array:
        q_BHTK, k_BHTK, v_BHTK = qkv
        return kernels.splash_attention(q_BHTK * scale, k_BHTK, v_BHTK, place, interpret=True)

    def graded(function, *qkv):  # type: ignore[no-untyped-def]
        out, pull = jax.vjp(function, *qkv)
        return out, pull(weight)

    qkv = random_qkv(length)
    found = jax.jit(lambda *qkv: graded(lambda *qkv: splash(1.0, *qkv), *qkv))(*qkv)
    wanted = jax.jit(lambda *qkv: graded(lambda *qkv: causal_attention(*qkv), *qkv))(*qkv)
    assert relative_distance(found, wanted) < 1e-5
    other = jax.jit(lambda *qkv: splash(1.1, *qkv))(*qkv)
    assert distance(other, wanted[0]) > 1e-2


def test_a_model_trains_through_splash_as_through_ours_on_a_mesh() -> None:
    place = place_on(2, 2, 2)
    params, window_BT1 = parameters.init(jax.random.key(0), CONFIG), random_tokens(0, 4, 257)

    def graded(config: ModelConfig, partition: Partition | None):  # type: ignore[no-untyped-def]
        def loss(params: parameters.Params) -> jax.Array:
            return loss_sum(params, window_BT1, config, chunk=128, partition=partition)[0]

        return jax.value_and_grad(loss)

    wanted = jax.jit(graded(asked("xla"), None))(params)
    for remat in ("none", "full"):
        found = jax.jit(graded(asked("splash", remat=remat), place))(params)
        assert relative_distance(found, wanted) < 1e-5
    # The kernel is there, once for all layers, in one program and not in the other.
    assert count_primitive("shard_map", graded(asked("splash"), place), params) > 0
    assert count_primitive("shard_map", graded(asked("auto"), place), params) == 0


def test_a_model_that_was_trained_with_a_kernel_reads_prompts_without() -> None:
    """Whose length the kernel could not take, on devices where it may not be."""
    params = decoding_params(parameters.init(jax.random.key(0), CONFIG), CONFIG)
    tokens_BT, length_B = random_tokens(0, 2, 70), jnp.asarray([70, 3], jnp.int32)
    read = [model.prefill(params, tokens_BT, length_B, asked(name), 128)[0] for name in ("cudnn", "splash", "auto")]
    assert distance(read[0], read[2]) == distance(read[1], read[2]) == 0.0
    stacked = parameters.init(jax.random.key(0), CONFIG)
    seen = [model.hidden_states(stacked, tokens_BT, asked(name)) for name in ("cudnn", "splash", "auto")]
    assert distance(seen[0], seen[2]) == distance(seen[1], seen[2]) == 0.0
    with pytest.raises(GPT2JaxError, match="it takes whole blocks of 128 positions, not 70"):
        model.final_states(stacked, tokens_BT, asked("splash"), partition=place_on(1, 1, 1))


def test_without_a_mesh_auto_leaves_a_kernel_alone_that_must_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x_BTD = jnp.zeros((2, 256, 32), BFLOAT16)
    assert kernel_here(asked("auto"), x_BTD, None, dropout=False) == "xla"
    assert kernel_here(asked("splash"), x_BTD, None, dropout=False) == "splash"
    assert attention.choose(asked("auto"), 256, BFLOAT16, "tpu", False)[0] == "splash"


def test_one_cpu_goes_head_by_head_where_its_caches_overflow() -> None:
    few, many = jnp.zeros((8, 256, 32)), jnp.zeros((9, 256, 32))  # 8 x 4 x 128 x 256 scores are what fits.
    assert kernel_here(asked("auto"), few, None, dropout=False) == "xla"
    assert kernel_here(asked("auto"), many, None, dropout=False) == "heads"
    assert kernel_here(asked("auto"), many, place_on(1, 1, 1), dropout=False) == "heads"
    # All heads at once where heads or rows may lie on several devices, where weights are dropped, and where asked for.
    assert kernel_here(asked("auto"), many, place_on(2, 1, 2), dropout=False) == "xla"
    assert kernel_here(asked("auto"), many, None, dropout=True) == "xla"
    assert kernel_here(asked("xla"), many, None, dropout=False) == "xla"


def test_head_by_head_a_model_has_the_same_logits_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    params, tokens_BT = parameters.init(jax.random.key(0), CONFIG), random_tokens(0, 3, 160)
    monkeypatch.setattr(attention, "CACHED_SCORES", 1000)
    heads, at_once = (functools.partial(model.forward, config=asked(name)) for name in ("auto", "xla"))
    logits_BTV = jax.jit(at_once)(params, tokens_BT)
    assert distance(jax.jit(heads)(params, tokens_BT), logits_BTV) < 1e-5
    earlier_BT = jnp.roll(tokens_BT, 1, axis=1)
    assert distance(jax.jit(heads)(params, earlier_BT), logits_BTV) > 1e-3
    # A loop over layers, and in one of the two over heads.
    assert count_primitive("scan", heads, params, tokens_BT) == 2
    assert count_primitive("scan", at_once, params, tokens_BT) == 1

    def gradient(forward: Callable[..., jax.Array], tokens_BT: jax.Array) -> Params:
        return jax.jit(jax.grad(lambda params: jnp.square(forward(params, tokens_BT)).mean()))(params)

    assert relative_distance(gradient(heads, tokens_BT), gradient(at_once, tokens_BT)) < 1e-5
    assert relative_distance(gradient(heads, earlier_BT), gradient(at_once, tokens_BT)) > 1e-3
