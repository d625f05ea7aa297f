"""The loss against float64, and the memory it takes."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.model import forward
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, Rules
from gpt2jax.train.objective import loss_sum
from tests.helpers import by_path, distance, place_on, random_tokens, relative_distance

CONFIG = ModelConfig(n_vocab=300, n_ctx=64, n_embd=16, n_head=2, n_layer=1)
WINDOW_BT1 = random_tokens(0, 2, 65, n_vocab=300)
WEIGHTS_BT = jnp.asarray(np.random.default_rng(1).random((2, 64)), jnp.float32)


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.tree.map(lambda leaf: 5 * leaf, jax.jit(parameters.init, static_argnums=1)(jax.random.key(0), CONFIG))


def losses(params: Params, n_vocab: int) -> np.ndarray:
    """Each target's loss [B, T] in float64 from the logits of ``n_vocab`` tokens."""
    logits_BTV = np.asarray(forward(params, WINDOW_BT1[:, :-1], CONFIG), np.float64)[..., :n_vocab]
    highest_BT1 = logits_BTV.max(-1, keepdims=True)
    total_BT = np.log(np.exp(logits_BTV - highest_BT1).sum(-1)) + highest_BT1[..., 0]
    return total_BT - np.take_along_axis(logits_BTV, np.asarray(WINDOW_BT1)[:, 1:, None], axis=-1)[..., 0]


def run(chunk: int, **kwargs: Any) -> Callable[[Params], Any]:
    return jax.jit(
        jax.value_and_grad(lambda params: loss_sum(params, WINDOW_BT1, CONFIG, chunk=chunk, **kwargs), has_aux=True)
    )


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 100])
def test_the_loss_is_the_cross_entropy_of_the_real_vocabulary_whatever_the_chunk(params: Params, chunk: int) -> None:
    (total, count), _ = run(chunk)(params)
    assert (total.dtype, count.dtype) == (jnp.float32, jnp.float32)
    assert float(count) == 128
    assert float(total) == pytest.approx(losses(params, 300).sum(), rel=1e-6)
    # Twins: the rows that pad the vocabulary counted in, and targets shifted by one, are seen.
    assert float(total) != pytest.approx(losses(params, 384).sum(), rel=1e-4)
    assert float(total) != pytest.approx(np.roll(losses(params, 300), 1)[:, 1:].sum(), rel=1e-4)


def derived(dtype: str, params: Params) -> Params:
    """The gradient that JAX derives from the loss written in one line."""
    config = dataclasses.replace(CONFIG, compute_dtype=dtype)  # type: ignore[arg-type]

    def loss(params: Params) -> jax.Array:
        logits_BTV = forward(params, WINDOW_BT1[:, :-1], config)[..., :300]
        wanted_BTV = jax.nn.one_hot(WINDOW_BT1[:, 1:], 300)
        return -jnp.sum(WEIGHTS_BT[..., None] * wanted_BTV * jax.nn.log_softmax(logits_BTV))

    grads: Params = jax.jit(jax.grad(loss))(params)
    return grads


@pytest.mark.parametrize("chunk", [7, 64])
def test_the_written_gradient_is_the_derived_one(params: Params, chunk: int) -> None:
    _, found = run(chunk, weights_BT=WEIGHTS_BT)(params)
    exact = derived("float32", params)
    assert relative_distance(found, exact) < 1e-5
    _, other = run(chunk)(params)
    assert relative_distance(other, exact) > 1e-2


def test_in_bfloat16_the_written_gradient_is_as_near_as_the_derived_one(params: Params) -> None:
    exact, config = derived("float32", params), dataclasses.replace(CONFIG, compute_dtype="bfloat16")

    def loss(params: Params) -> jax.Array:
        return loss_sum(params, WINDOW_BT1, config, chunk=16, weights_BT=WEIGHTS_BT)[0]

    written, plain = by_path(jax.jit(jax.grad(loss))(params)), by_path(derived("bfloat16", params))
    for path, leaf in by_path(exact).items():
        scale = np.linalg.norm(leaf)
        errors = [float(np.linalg.norm(np.asarray(grads[path] - leaf)) / scale) for grads in (written, plain)]
        assert 1e-4 < errors[0] < 1.3 * errors[1] + 1e-3, (path, errors)


@pytest.mark.parametrize("chunk", [7, 16])
def test_chunks_change_no_gradient(params: Params, chunk: int) -> None:
    _, wanted = run(64, weights_BT=WEIGHTS_BT)(params)
    _, found = run(chunk, weights_BT=WEIGHTS_BT)(params)
    assert relative_distance(found, wanted) < 1e-5


def test_rows_that_pad_the_vocabulary_get_no_gradient(params: Params) -> None:
    for chunk in (16, 64):
        _, grads = run(chunk)(params)
        assert (grads["wte"][300:] == 0).all()
        assert (jnp.abs(grads["wte"][:300]).max(-1) > 0).all()


@pytest.mark.parametrize("chunk", [7, 64])
def test_weights_weigh_each_target(params: Params, chunk: int) -> None:
    (total, count), _ = run(chunk, weights_BT=WEIGHTS_BT)(params)
    assert float(count) == pytest.approx(float(WEIGHTS_BT.sum()), rel=1e-6)
    assert float(total) == pytest.approx((losses(params, 300) * np.asarray(WEIGHTS_BT)).sum(), rel=1e-6)
    (total, count), grads = run(chunk, weights_BT=jnp.zeros((2, 64)))(params)
    assert float(total) == float(count) == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_a_mean_over_parts_with_unequal_weights_is_the_whole_mean(params: Params) -> None:
    weights_BT = WEIGHTS_BT.at[1].multiply(0.1)
    whole, _ = run(16, weights_BT=weights_BT)(params)

    @jax.jit
    def part(params: Params, window_BT1: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss_sum(params, window_BT1, CONFIG, chunk=16, weights_BT=weights_BT)

    parts = [part(params, WINDOW_BT1[row : row + 1], weights_BT[row : row + 1]) for row in range(2)]
    totals, counts = (np.array(values) for values in zip(*parts, strict=True))
    mean = float(whole[0]) / float(whole[1])
    assert totals.sum() / counts.sum() == pytest.approx(mean, rel=1e-6)
    assert (totals / counts).mean() != pytest.approx(mean, rel=1e-3)  # Twin: the mean of the parts' means.


def test_a_target_past_the_vocabulary_is_nan(params: Params) -> None:
    for chunk in (16, 64):
        total, _ = loss_sum(params, WINDOW_BT1.at[0, -1].set(384), CONFIG, chunk=chunk)
        assert math.isnan(total)


def largest_array(chunk: int, params: Params) -> tuple[int, str]:
    """Elements of the largest float32 array in the compiled loss and gradient, and the program's text."""
    text = run(chunk).lower(params).compile().as_text()  # type: ignore[attr-defined]
    return max(math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text)), text


def test_logits_of_all_positions_never_exist_at_once(params: Params) -> None:
    whole = 2 * 64 * 384
    largest, text = largest_array(16, params)
    assert largest < whole / 2
    assert "f32[384,32]" in text
    largest, text = largest_array(64, params)  # Twin: without chunks they do.
    assert largest == whole
    assert "f32[384,128]" in text


def test_on_cpu_the_vocabulary_comes_first_where_the_table_is_larger_than_the_states(params: Params) -> None:
    """2 rows of 64 are fewer than the 384 of the table, 8 are more: the same mean, and no scores are turned around."""
    windows_BT1 = jnp.concatenate([WINDOW_BT1] * 4)

    @jax.jit
    def mean(params: Params, window_BT1: jax.Array) -> Any:
        def loss(params: Params) -> jax.Array:
            total, count = loss_sum(params, window_BT1, CONFIG, chunk=64)
            return total / count

        return jax.value_and_grad(loss)(params)

    def dots(window_BT1: jax.Array) -> tuple[str, set[str]]:
        text = str(mean.lower(params, window_BT1).compile().as_text())
        return text, set(re.findall(r"f32\[([\d,]+)\]\S* dot\(", text))

    few, many = dots(WINDOW_BT1), dots(windows_BT1)
    assert "384,128" in few[1]
    assert not {"128,384", "2,64,384"} & few[1]
    assert "f32[128,384]" not in few[0]
    assert "512,384" in many[1]  # Twin.
    found, wanted = mean(params, WINDOW_BT1), mean(params, windows_BT1)
    assert relative_distance(found, wanted) < 1e-5
    other = mean(params, windows_BT1.at[:4].set(windows_BT1[4:, ::-1]))
    assert relative_distance(other, wanted) > 1e-2


# A vocabulary of 1024 with its padding, which is no other size of the model or the batch.
WIDE = ModelConfig(n_vocab=1000, n_ctx=32, n_embd=64, n_head=8, n_layer=1)


def program_on(place: Partition) -> list[str]:
    """Lines of the compiled loss and gradient, in chunks, of 8 sequences on a mesh."""

    def total(params: Params, window_BT1: jax.Array) -> jax.Array:
        return loss_sum(params, window_BT1, WIDE, chunk=8, partition=place)[0]

    compiled = jax.jit(
        jax.value_and_grad(total),
        in_shardings=(place.params(), place.sharding("batch", None)),
        out_shardings=(place.sharding(), place.params()),
    ).lower(parameters.abstract(WIDE), jax.ShapeDtypeStruct((8, 33), jnp.int32))
    return str(compiled.compile().as_text()).splitlines()


def shapes(lines: list[str]) -> set[tuple[int, ...]]:
    """Of every array that one device holds."""
    found = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", "\n".join(lines))
    return {tuple(map(int, dims.split(","))) for dims in found}


@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 2, 2)])
def test_no_device_holds_the_whole_vocabulary_where_tensor_cuts_it(sizes: tuple[int, int, int]) -> None:
    """Neither logits nor the table nor any other array with all of its rows; and the table moves once a step."""
    _, fsdp, tensor = sizes
    batch, part = 8 // (sizes[0] * fsdp), 1024 // tensor
    lines = program_on(place_on(*sizes))
    assert not [shape for shape in shapes(lines) if 1024 in shape]
    assert (batch, 8, part) in shapes(lines)
    assert (part, 64) in shapes(lines)
    gathers = [line for line in lines if re.search(rf"= \w+\[{part},64\]\S* all-gather(-start)?\(", line)]
    assert len(gathers) == (1 if fsdp > 1 else 0)
    assert not any("while" in line for line in gathers)
    # Twin: by rules that do not cut the vocabulary.
    whole = shapes(program_on(place_on(*sizes, Rules(vocab=(), logits=()))))
    assert {(batch, 8, 1024), (1024, 64)} <= whole


def test_uniform_scores_cost_the_logarithm_of_the_real_vocabulary(params: Params) -> None:
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, count = loss_sum(zeros, WINDOW_BT1, CONFIG, chunk=64)
    assert float(total / count) == pytest.approx(math.log(300), rel=1e-6)


def test_every_parameter_has_a_gradient(params: Params) -> None:
    _, grads = run(64)(params)
    assert all(distance(grad, jnp.zeros_like(grad)) > 1e-4 for grad in by_path(grads).values())
