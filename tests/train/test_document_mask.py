"""Attention confined to documents: a window computes what its documents compute each by itself."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pytest

from gpt2jax import attention, kernels, model, parameters
from gpt2jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpt2jax.data.prepare import prepare
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.corpus import open_corpus
from gpt2jax.train.objective import loss_sum, segments
from gpt2jax.train.step import make_eval_step, make_gradient
from tests.helpers import by_path, distance, place_on, random_tokens, relative_distance

EOT = 256
# Longer than a block of queries.
CONFIG = ModelConfig(n_vocab=257, n_ctx=192, n_embd=32, n_head=4, n_layer=2)
STARTS = [0, 20, 21, 130, 192]


def window(seed: int = 0, rows: int = 1) -> jax.Array:
    """Four documents, of which the first began before the window, and one is <|endoftext|> alone."""
    tokens_BT1 = random_tokens(seed, rows, 193, n_vocab=256)
    for start in STARTS[1:-1]:
        tokens_BT1 = tokens_BT1.at[:, start].set(EOT)
    return tokens_BT1


def fresh() -> parameters.Params:
    params = parameters.init(jax.random.key(0), CONFIG)
    # Larger than a fresh model's, so that positions and what is attended to are seen.
    wpe = jax.random.normal(jax.random.key(1), params["wpe"].shape) * 0.5
    return jax.tree.map(lambda leaf: 4 * leaf, params) | {"wpe": wpe}


def alone(params: parameters.Params, start: int) -> parameters.Params:
    """The model for a document that begins at ``start``: positions count on through the window."""
    return params | {"wpe": jnp.concatenate([params["wpe"][start:], params["wpe"][:start]])}


def test_documents_are_numbered_from_their_marks() -> None:
    tokens_BT = jnp.asarray([[5, EOT, 6, 7, EOT, EOT, 8], [EOT, 1, 2, 3, 4, 5, EOT]])
    assert segments(tokens_BT, EOT).tolist() == [[0, 1, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 1, 2]]


def test_states_are_those_of_each_document_by_itself() -> None:
    params, tokens_BT = fresh(), window()[:, :-1]
    together = model.final_states(params, tokens_BT, CONFIG, segments_BT=segments(tokens_BT, EOT))
    without = model.final_states(params, tokens_BT, CONFIG)
    for start, stop in itertools.pairwise(STARTS):
        wanted = model.final_states(alone(params, start), tokens_BT[:, start:stop], CONFIG)
        assert relative_distance(together[:, start:stop], wanted) < 1e-5
        # Twins: without the mask; with documents that begin one later.
        if start:
            assert distance(without[:, start:stop], wanted) > 1e-2
    late = jnp.concatenate([jnp.zeros((1, 1), jnp.int32), segments(tokens_BT, EOT)[:, :-1]], axis=1)
    shifted = model.final_states(params, tokens_BT, CONFIG, segments_BT=late)
    assert distance(shifted, together) > 1e-2


def test_nothing_of_another_document_is_seen_to_the_bit() -> None:
    params, tokens_BT = fresh(), window()[:, :-1]
    other_BT = tokens_BT.at[:, :20].set(7).at[:, 150:].set(9)

    def states(tokens_BT: jax.Array, masked: bool) -> jax.Array:
        return model.final_states(params, tokens_BT, CONFIG, segments_BT=segments(tokens_BT, EOT) if masked else None)[
            :, 20:130
        ]

    assert distance(states(tokens_BT, True), states(other_BT, True)) == 0
    assert distance(states(tokens_BT, False), states(other_BT, False)) > 1e-2


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_loss_and_gradient_are_the_sums_of_the_documents(remat: Literal["none", "attention"]) -> None:
    config = dataclasses.replace(CONFIG, remat=remat)
    params, window_BT1 = fresh(), window(rows=2)

    def packed(params: parameters.Params, start: int | None = EOT) -> jax.Array:
        return loss_sum(params, window_BT1, config, chunk=64, document_start=start)[0]

    def apart(params: parameters.Params) -> jax.Array:
        parts = [
            loss_sum(alone(params, start), window_BT1[:, start : stop + 1], CONFIG, chunk=64)[0]
            for start, stop in itertools.pairwise(STARTS)
        ]
        return sum(parts, jnp.zeros(()))

    found, wanted = (jax.jit(jax.value_and_grad(of))(params) for of in (packed, apart))
    assert relative_distance(found, wanted) < 1e-5
    assert relative_distance(jax.jit(jax.grad(lambda params: packed(params, None)))(params), wanted[1]) > 1e-3


@pytest.mark.parametrize("mesh", [None, (2, 2, 2)])
def test_splash_confines_as_ours(mesh: tuple[int, int, int] | None) -> None:
    place = None if mesh is None else place_on(*mesh)
    qkv = [jax.random.normal(jax.random.key(seed), (4, 4, 256, 8)) for seed in range(3)]
    numbers_BT = jnp.cumsum(jax.random.bernoulli(jax.random.key(3), 0.02, (4, 256)), axis=1, dtype=jnp.int32)
    weight = jax.random.normal(jax.random.key(4), (4, 4, 256, 8))

    def graded(function: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda qkv: jnp.sum(function(*qkv) * weight)))(qkv)

    splash = graded(lambda q, k, v: kernels.splash_attention(q, k, v, place, numbers_BT, interpret=True))
    ours = graded(lambda q, k, v: attention.causal_attention(q, k, v, segments_BT=numbers_BT))
    assert relative_distance(splash, ours) < 1e-4
    assert relative_distance(graded(attention.causal_attention), ours) > 1e-2


def test_which_kernel_confines() -> None:
    auto, bfloat16 = dataclasses.replace(CONFIG, attention="auto"), jnp.dtype(jnp.bfloat16)
    assert attention.choose(auto, 256, bfloat16, "tpu", False, True)[0] == "splash"
    name, note = attention.choose(auto, 256, bfloat16, "gpu", False, True)
    assert name == "xla"
    assert "it cannot confine attention to a document (data.document_mask)" in note
    many = jnp.zeros((64, 1024, 32))
    assert attention.kernel_here(auto, many, None, dropout=False) == "heads"
    assert attention.kernel_here(auto, many, None, dropout=False, segmented=True) == "xla"


def test_a_run_confines_where_its_settings_say_so() -> None:
    place = place_on(2, 2, 1)
    params = jax.device_put(fresh(), place.params())
    window_BT1 = window(rows=4)
    losses = {}
    for masked in (False, True):
        config = Config(model=CONFIG, data=DataConfig(document_mask=masked))
        loss, grads = jax.jit(make_gradient(config, place))(params, jnp.int32(0), window_BT1[None])
        total, count = loss_sum(fresh(), window_BT1, CONFIG, chunk=64, document_start=EOT if masked else None)
        assert float(loss) == pytest.approx(float(total / count), rel=1e-6)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in by_path(grads).values())
        evaluate = make_eval_step(CONFIG, place, 64, None, EOT if masked else None)
        assert float(evaluate(params, window_BT1, jnp.ones((4, 192)))[0]) == pytest.approx(float(total), rel=1e-6)
        losses[masked] = float(loss)
    assert abs(losses[True] - losses[False]) > 1e-4


@pytest.mark.parametrize("arguments", [{"end_of_text": False}, {"tokenizer": "characters"}])
def test_data_that_does_not_say_where_documents_begin_is_refused(tmp_path: Path, arguments: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_text("abc" * 100)
    given = {"tokenizer": "bytes", "split": "tail"} | arguments
    meta = prepare([str(tmp_path / "a.txt")], tmp_path / "shards", **given)  # type: ignore[arg-type]

    def opened(masked: bool) -> int:
        config = Config(
            model=ModelConfig(n_vocab=meta.n_vocab, n_ctx=8),
            data=DataConfig(path=str(tmp_path / "shards"), document_mask=masked),
            training=TrainingConfig(run_dir=str(tmp_path / "run")),
        )
        return len(open_corpus(config).windows)

    assert opened(False) > 0
    with pytest.raises(GPT2JaxError, match=r"data\.document_mask: true: should be false: .* has no <\|endoftext\|>"):
        opened(True)
