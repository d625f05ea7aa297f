"""The engine against the naive computation in float64: rows of any length, windows, meshes; and what it refuses."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import MeshConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import likelihood
from gpt2jax.evaluate.likelihood import Scorer, Shape
from gpt2jax.evaluate.rows import Row, Scored, count_strided, pair, strided
from gpt2jax.partition import Partition
from tests.evaluate import naive
from tests.helpers import FIXTURES, MESHES, TINY, Checkpoint, place_on


def rows_of(seed: int, *sizes: tuple[int, int], n_vocab: int = 300) -> list[Row]:
    """Random rows of ``(tokens, first)``."""
    draw = np.random.default_rng(seed)
    return [Row(draw.integers(n_vocab, size=count).astype(np.int32), first) for count, first in sizes]


def score(checkpoint: Checkpoint, rows: list[Row], **settings: object) -> list[Scored]:
    scorer = Scorer(checkpoint.params, checkpoint.config, **settings)  # type: ignore[arg-type]
    return list(scorer.score_all(rows))


def test_rows_are_the_naive_computation(hf_tiny: Checkpoint) -> None:
    rows = rows_of(0, (33, 1), (2, 1), (33, 32), (12, 3), (20, 12), (33, 20), (5, 4))
    scored = score(hf_tiny, rows, batch_tokens=64)
    for row, one in zip(rows, scored, strict=True):
        tokens = row.tokens.tolist()
        wanted = naive.log_probs(hf_tiny.params, hf_tiny.config, tokens, row.first)
        assert one.log_probs.dtype == np.float32
        np.testing.assert_allclose(one.log_probs, wanted, rtol=1e-4)
        shifted = naive.log_probs(hf_tiny.params, hf_tiny.config, [7, *tokens[:-1]], row.first)
        with pytest.raises(AssertionError):  # The same tokens one position on.
            np.testing.assert_allclose(one.log_probs, shifted, rtol=1e-4)


def test_windows_are_the_naive_ones(hf_tiny: Checkpoint) -> None:
    [stream] = rows_of(1, (50, 1))
    for stride in (5, 32):
        scored = score(hf_tiny, list(strided(stream.tokens, 32, stride)))
        found = np.concatenate([one.log_probs for one in scored])
        settings = (hf_tiny.params, hf_tiny.config, stream.tokens.tolist(), 32)
        np.testing.assert_allclose(found, list(naive.strided_log_probs(*settings, stride).values()), rtol=1e-4)
        if stride == 5:
            other = list(naive.strided_log_probs(*settings, 6).values())
            assert not np.allclose(found, other, rtol=1e-4)


def test_greedy_is_the_argmax(hf_tiny: Checkpoint) -> None:
    params, config = hf_tiny.params, hf_tiny.config
    tokens = [5]
    for _ in range(12):  # Greedy text, then random tokens.
        tokens.append(int(naive.logits_after(params, config, tokens).argmax()))
    second = int(naive.logits_after(params, config, tokens).argsort()[-2])
    best = int(naive.logits_after(params, config, tokens).argmax())
    rows = [Row(np.array([*tokens, end], np.int32), 1) for end in (best, second)]
    rows += rows_of(2, (20, 1))
    for banned in ((), (best,), (tokens[3], 299)):
        for row, one in zip(rows, score(hf_tiny, rows, banned=banned), strict=True):
            row_tokens = row.tokens.tolist()
            np.testing.assert_array_equal(one.greedy, naive.greedy(params, config, row_tokens, 1, banned))
            np.testing.assert_array_equal(one.argmax, naive.greedy(params, config, row_tokens, 1))
            np.testing.assert_allclose(one.log_probs, naive.log_probs(params, config, row_tokens, 1), rtol=1e-4)
    free, filtered = (score(hf_tiny, rows, banned=banned) for banned in ((), (best,)))
    assert free[0].greedy[-1]
    assert not filtered[0].greedy[-1]
    assert filtered[1].greedy[-1]
    assert not free[1].greedy[-1]


def test_of_equal_tokens_the_first_is_the_most_probable(hf_tiny: Checkpoint) -> None:
    table = np.array(hf_tiny.params["wte"])
    table[17] = table[250]
    twins = hf_tiny._replace(params=hf_tiny.params | {"wte": jax.numpy.asarray(table)})
    context = next(
        context
        for context in np.random.default_rng(3).integers(300, size=(5000, 6)).tolist()
        if naive.logits_after(twins.params, twins.config, context).argmax() == 17
    )
    first, second = score(twins, [Row(np.array([*context, token], np.int32), 6) for token in (17, 250)])
    assert first.greedy[0]
    assert not second.greedy[0]
    [only] = score(twins, [Row(np.array([*context, 250], np.int32), 6)], banned=[17])
    assert only.greedy[0]
    assert not only.argmax[0]


def test_weights_that_are_no_numbers_are_never_right(hf_tiny: Checkpoint) -> None:
    broken = hf_tiny._replace(params=hf_tiny.params | {"wpe": hf_tiny.params["wpe"] * np.float32(np.nan)})
    [scored] = score(broken, rows_of(4, (6, 1)))
    assert np.isnan(scored.log_probs).all()
    assert not scored.greedy.any()
    assert not scored.argmax.any()


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_scores_the_same(mesh: tuple[int, int, int]) -> None:
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=TINY)
    params["wte"] *= 20.0  # Else every token is as probable as another.
    rows = rows_of(5, *[(33, 1), (9, 4), (33, 31), (14, 13)] * 3, n_vocab=TINY.n_vocab)
    alone = list(Scorer(params, TINY, batch_tokens=64).score_all(rows))
    scored = list(Scorer(params, TINY, place_on(*mesh), batch_tokens=64).score_all(rows))
    for left, right in zip(alone, scored, strict=True):
        np.testing.assert_allclose(left.log_probs, right.log_probs, rtol=1e-5)
        np.testing.assert_array_equal(left.greedy, right.greedy)
    assert not np.allclose(alone[0].log_probs, scored[4].log_probs, rtol=1e-5)


def test_a_program_for_each_bucket_and_no_more(hf_tiny: Checkpoint, compiled: list[str]) -> None:
    scorer = Scorer(hf_tiny.params, hf_tiny.config, batch_tokens=16 * 32)
    lengths = [2 + number % 32 for number in range(300)]
    rows = rows_of(6, *[(count, 1 + number % (count - 1)) for number, count in enumerate(lengths)])
    # All lengths are one bucket, 32, and tails are two, 8 and 32; each with whole batches and with parts.
    assert {scorer.shape(row) for row in rows} == {Shape(32, 8), Shape(32, 32)}
    assert len(list(scorer.score_all(rows))) == 300
    assert 2 <= compiled.count("jit(_scores)") <= 4
    list(scorer.score_all(rows[::-1]))
    banning = Scorer(hf_tiny.params, hf_tiny.config, batch_tokens=16 * 32, banned=[3])
    list(banning.score_all(rows))
    assert compiled.count("jit(_scores)") <= 4
    list(Scorer(hf_tiny.params, hf_tiny.config, batch_tokens=32).score_all(rows[:1]))
    assert compiled.count("jit(_scores)") > 2


def test_buckets_waste_at_most_a_third(hf_tiny: Checkpoint) -> None:
    scorer = Scorer(hf_tiny.params, hf_tiny.config)
    scorer.config = dataclasses.replace(scorer.config, n_ctx=1000)
    shapes = {count: scorer.shape(Row(np.zeros(count + 1, np.int32), count)) for count in range(1, 1001)}
    assert sorted({shape.length for shape in shapes.values()}) == [64, 96, 128, 192, 256, 384, 512, 768, 1000]
    assert all(count <= shape.length for count, shape in shapes.items())
    assert all(2 * shape.length <= 3 * count for count, shape in shapes.items() if count >= 64)
    whole = Row(np.zeros(1001, np.int32), 1)
    assert scorer.shape(whole) == Shape(1000, 1000)
    assert scorer.shape(dataclasses.replace(whole, first=1001 - 512)) == Shape(1000, 512)


def test_rows_are_taken_as_they_are_needed(hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of a bucket that does not fill must not hold back thousands of others."""
    monkeypatch.setattr(likelihood, "PATIENCE", 3)
    taken = 0
    [odd, *rest] = rows_of(7, (33, 1), *[(33, 30)] * 200)

    def stream() -> object:
        nonlocal taken
        for row in (odd, *rest):
            taken += 1
            yield row

    scorer = Scorer(hf_tiny.params, hf_tiny.config, batch_tokens=4 * 32)
    results = scorer.score_all(stream())  # type: ignore[arg-type]
    first = next(results)
    assert taken <= 1 + 4 * (3 + 2 * likelihood.IN_FLIGHT)
    np.testing.assert_array_equal(first.log_probs, score(hf_tiny, [odd], batch_tokens=4 * 32)[0].log_probs)
    assert len(list(results)) == 200 == taken - 1


def test_progress_counts_what_is_read(hf_tiny: Checkpoint) -> None:
    [stream] = rows_of(8, (100, 1))
    told: list[int] = []
    scorer = Scorer(hf_tiny.params, hf_tiny.config)
    list(scorer.score_all(strided(stream.tokens, 32, 8), progress=lambda done, remark: told.append(done)))
    counts = count_strided(100, 32, 8)
    assert (len(told), told[-1]) == (counts.rows, counts.forward)


def test_products_are_in_the_dtype_that_is_asked_for(hf_tiny: Checkpoint) -> None:
    rows = rows_of(9, (33, 1))
    [exact], [coarse] = score(hf_tiny, rows), score(hf_tiny, rows, compute_dtype="bfloat16")
    assert coarse.log_probs.dtype == np.float32
    difference = np.abs(exact.log_probs - coarse.log_probs).max()
    assert 1e-4 < difference < 0.2


def test_any_source_of_weights_is_scored_on_any_mesh(hf_tiny: Checkpoint) -> None:
    rows = rows_of(10, (20, 1))
    [wanted] = score(hf_tiny, rows)
    for mesh in (None, MeshConfig(data=2, tensor=4)):
        [found] = Scorer.load(FIXTURES / "hf_tiny", mesh).score_all(rows)
        np.testing.assert_allclose(found.log_probs, wanted.log_probs, rtol=1e-5)


def test_rows_that_cannot_be_scored_are_named(hf_tiny: Checkpoint) -> None:
    scorer = Scorer(hf_tiny.params, hf_tiny.config)
    good = pair([1], [2], 32)
    for row, message in (
        (Row(np.zeros(34, np.int32), 1), "row 2: 34 tokens: should be 2 to 33, the context and the token after it"),
        (Row(np.zeros(1, np.int32), 1), "row 2: 1 tokens: should be 2 to 33"),
        (Row(np.array([1, 300], np.int32), 1), "row 2: a token outside of the vocabulary of 300"),
        (Row(np.array([-1, 3], np.int32), 1), "row 2: a token outside of the vocabulary of 300"),
        (Row(np.array([1, 3], np.int32), 2), "row 2: first: 2: should be 1 to 1"),
        (Row(np.array([1, 3], np.int32), 0), "row 2: first: 0: should be 1 to 1"),
    ):
        with pytest.raises(GPT2JaxError, match=message):
            list(scorer.score_all([good, row]))
    with pytest.raises(GPT2JaxError, match="banned: 300: is outside of the vocabulary of 300"):
        Scorer(hf_tiny.params, hf_tiny.config, banned=[300])
    with pytest.raises(GPT2JaxError, match="batch_tokens: 0: should be at least 1"):
        Scorer(hf_tiny.params, hf_tiny.config, batch_tokens=0)


def test_one_devices_head_puts_the_larger_side_first() -> None:
    """Which is the table, in the programs of users; on a mesh it stays where it is."""

    def made(place: Partition) -> list[str]:
        params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=TINY)
        tokens_BT1, first_B = jax.numpy.zeros((4, 9), "int32"), jax.numpy.zeros(4, "int32")
        allowed_V = jax.numpy.ones(TINY.padded_vocab, bool)
        lowered = likelihood._scores.lower(
            params, tokens_BT1, first_B, allowed_V, config=TINY, tail=8, chunk=2, place=place
        )
        return re.findall(r"stablehlo\.dot_general.*-> (tensor<\S+xf32>)", lowered.as_text())

    rows = TINY.padded_vocab
    assert f"tensor<{rows}x4x2xf32>" in made(place_on(1, 1, 1))
    on_a_mesh = made(place_on(2, 1, 1))
    assert f"tensor<{rows}x4x2xf32>" not in on_a_mesh
    assert f"tensor<4x2x{rows}xf32>" in on_a_mesh
