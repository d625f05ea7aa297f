"""The engine against the naive loop, and a row against its batch."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import attention, model, ops, parameters
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate import batch, engine
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.beam import beam_search
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request
from gpt2jax.generate.shapes import bucket, least_rows, padded
from gpt2jax.parameters import Params
from tests.generate.helpers import GREEDY, batch_of, naive, next_logits, prompts_of, rows_of, sampling, write
from tests.helpers import TINY, Checkpoint, place_on
from tests.weights.helpers import held


def test_greedy_is_the_naive_loop_for_every_length_in_a_batch(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 1, 5, 9, 20)
    wanted = [naive(hf_tiny.params, prompt, hf_tiny.config, 8) for prompt in prompts]
    assert write(hf_tiny, prompts, sampling(temperature=0.0, max_new_tokens=8)) == wanted
    assert write(hf_tiny, prompts, sampling(do_sample=False, max_new_tokens=8)) == wanted
    shifted = [naive(hf_tiny.params, prompt[1:] or [7], hf_tiny.config, 8) for prompt in prompts]
    assert shifted != wanted


def test_greedy_is_openais_own_continuation(openai_tiny: Checkpoint) -> None:
    prompts = openai_tiny.expected["greedy_prompt"].tolist()
    wanted = openai_tiny.expected["greedy"].tolist()
    found = write(openai_tiny, prompts, dataclasses.replace(GREEDY, max_new_tokens=len(wanted[0]) - len(prompts[0])))
    assert [prompt + tokens for prompt, tokens in zip(prompts, found, strict=True)] == wanted


def test_a_gpu_writes_one_text_in_two_rows(hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> tuple[list[int], int]:
        batch = batch_of(hf_tiny, [Request((5, 6, 7), sampling(max_new_tokens=9, seed=3))])
        return batch.run()[0].tokens, batch._state.tokens_BS.shape[0]

    tokens, rows = written()
    assert rows == least_rows() == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert least_rows() == 2
    monkeypatch.undo()
    monkeypatch.setattr(batch, "least_rows", lambda: 2)
    assert written() == (tokens, 2)


@pytest.mark.parametrize("stride", [1, 3, 100])
def test_texts_do_not_depend_on_how_often_they_are_looked_at(hf_tiny: Checkpoint, stride: int) -> None:
    prompts = prompts_of(hf_tiny, 3, 11, 7)
    settings = sampling(max_new_tokens=12, seed=5)
    batch = batch_of(hf_tiny, [Request(tuple(prompt), settings) for prompt in prompts])
    seen = [list(row.tokens) for row in batch.rows]
    while not batch.finished:
        batch.advance(stride)
        for before, row in zip(seen, batch.rows, strict=True):
            assert row.tokens[: len(before)] == before
        seen = [list(row.tokens) for row in batch.rows]
    assert seen == write(hf_tiny, prompts, settings)


def test_one_text_is_written_without_copies_of_its_cache_on_a_cpu(
    hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin writes as many rows are written: the compiler then copies all keys and values at every token."""
    batch = batch_of(hf_tiny, [Request((1, 2, 3), GREEDY)])
    shape = ",".join(map(str, batch._state.cache[0]["k"].shape))

    def copies() -> int:
        jax.clear_caches()
        lowered = engine.advance.lower(batch.params, batch._state, jnp.int32(8), config=hf_tiny.config, place=None)
        return len(re.findall(rf"= f32\[{shape}\]\S* copy\(", lowered.compile().as_text() or ""))

    assert copies() == 0
    monkeypatch.setattr(attention, "_write_twice", plain_write)
    assert copies() > 0
    jax.clear_caches()


def plain_write(cache_BHSK: jax.Array, new_BHTK: jax.Array, position_B: jax.Array) -> jax.Array:
    one = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
    return jax.vmap(one)(cache_BHSK, new_BHTK, position_B)


@pytest.mark.parametrize("length", [1, 3])
def test_a_row_alone_is_written_where_rows_together_are(length: int) -> None:
    """At the end of the cache too, where several tokens do not fit."""
    rng = np.random.default_rng(0)
    cache = jnp.asarray(rng.normal(size=(1, 2, 8, 4)), jnp.float32)
    new = jnp.asarray(rng.normal(size=(1, 2, length, 4)), jnp.float32)
    found = [attention._write_twice(cache, new, jnp.array([at], jnp.int32)) for at in (0, 4, 7, 9)]
    for at, one in zip((0, 4, 7, 9), found, strict=True):
        np.testing.assert_array_equal(one, plain_write(cache, new, jnp.array([at], jnp.int32)))
    assert not np.array_equal(found[0], found[1])


def test_a_sample_does_not_depend_on_its_batch(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 3, 11, 7)
    settings = sampling(max_new_tokens=12, seed=5)
    together = write(hf_tiny, prompts, settings)
    assert together == [write(hf_tiny, [prompt], settings)[0] for prompt in prompts]
    assert together[::-1] == write(hf_tiny, prompts[::-1], settings)
    neighbours = [Request(tuple(prompts[1]), settings), Request((5,), sampling(temperature=2.0, top_k=3, seed=8))]
    assert batch_of(hf_tiny, neighbours).run()[0].tokens == together[1]
    assert together != write(hf_tiny, prompts, dataclasses.replace(settings, seed=6))


def test_samples_of_one_prompt_share_its_reading_and_differ_by_their_index(hf_tiny: Checkpoint) -> None:
    [prompt] = prompts_of(hf_tiny, 4)
    settings = sampling(max_new_tokens=12)
    requests = [Request(tuple(prompt), settings, index) for index in range(4)]
    four = [row.tokens for row in batch_of(hf_tiny, requests).run()]
    assert len({tuple(tokens) for tokens in four}) == 4
    assert batch_of(hf_tiny, requests[2:3]).run()[0].tokens == four[2]
    traced: list[int] = []
    prefill = model.prefill

    def noted(params: Params, tokens_BT: jax.Array, *rest: Any) -> Any:
        traced.append(tokens_BT.shape[0])
        return prefill(params, tokens_BT, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2jax.model.prefill", noted)
        jax.clear_caches()
        batch_of(hf_tiny, requests)
        batch_of(hf_tiny, [*requests, Request((7,), settings)])
    assert traced == [1, 2]


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 1), (8, 1, 1), (1, 1, 8), (2, 2, 2), (1, 8, 1)])
def test_texts_are_the_same_on_any_mesh(mesh: tuple[int, int, int]) -> None:
    """And the cache lies where its rows and heads do."""
    weights = held(TINY)
    params = jax.tree.map(lambda leaf: 0.1 * leaf, weights.params)
    place = place_on(*mesh)
    requests = [Request(tuple(range(3, 3 + length)), sampling(max_new_tokens=8)) for length in (2, 5, 9)]
    alone = Batch(decoding_params(params, TINY), requests, TINY).run()
    spread = decoding_params(jax.device_put(params, place.params()), TINY, place)
    batch = Batch(spread, requests, TINY, place=place)
    assert [row.tokens for row in batch.run()] == [row.tokens for row in alone]
    keys = batch._state.cache[0]["k"]
    assert keys.sharding.is_equivalent_to(place.sharding("batch", "heads", None, None), 4)
    rows = max(4, mesh[0] * mesh[1])
    assert keys.addressable_shards[0].data.shape == (rows // (mesh[0] * mesh[1]), 8 // mesh[2], 32, 8)


def test_no_kernel_is_gathered_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a mesh each device multiplies by its part of a kernel; as one matrix, the heads' would be put together."""
    monkeypatch.setattr(ops, "LARGE_KERNEL", 0)
    block = model._block.__wrapped__  # type: ignore[attr-defined]  # No program of another test's.
    monkeypatch.setattr(model, "_block", block)
    place = place_on(1, 1, 8)
    params = jax.device_put(held(TINY).params, place.params())
    shape = jax.ShapeDtypeStruct((4, 8, 32, 8), jnp.float32, sharding=place.sharding("batch", "heads", None, None))
    cache = [{"k": shape, "v": shape}] * 2

    def gathered(params: Params) -> list[int]:
        """Sizes of arrays."""
        zeros_4 = jnp.zeros(4, jnp.int32)
        step = jax.jit(lambda params, cache: model.decode_step(params, zeros_4, zeros_4, cache, TINY))  # Traced anew.
        compiled = step.lower(params, cache).compile()
        lines = re.findall(r"= (.+?) all-gather(?:-start)?\(", compiled.as_text() or "")
        return [math.prod(map(int, shape.split(","))) for line in lines for shape in re.findall(r"\[([\d,]+)\]", line)]

    assert max(gathered(decoding_params(params, TINY, place)), default=0) < 64 * 64
    # Twins: those that a single device wants are, and so are these, as a single device multiplies them.
    assert 3 * 64 * 64 in gathered(decoding_params(params, TINY))
    monkeypatch.setattr(model, "Block", lambda config, unstacked, plain=model.Block: plain(config))
    assert 3 * 64 * 64 in gathered(decoding_params(params, TINY, place))


def test_one_cpu_has_its_kernels_turned() -> None:
    """In float32; on a mesh or in another dtype nothing is."""
    bfloat16 = dataclasses.replace(TINY, compute_dtype="bfloat16")
    assert engine.turns_kernels(TINY, None)
    assert engine.turns_kernels(TINY, place_on(1, 1, 1))
    assert not engine.turns_kernels(TINY, place_on(1, 1, 8))
    assert not engine.turns_kernels(bfloat16, None)
    params = held(TINY).params
    for config, name in ((TINY, "turned"), (bfloat16, "kernel")):
        for block in decoding_params(params, config)["h"]:
            assert set(block["mlp"]["c_fc"]) == {name, "bias"}


def test_a_row_ends_at_a_stop_token_and_the_others_go_on(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 5, 6)
    for seed in range(20):  # Until the first text's fourth token is nowhere else.
        settings = sampling(max_new_tokens=10, seed=seed)
        free = write(hf_tiny, prompts, settings)
        stop = free[0][3]
        if stop not in free[0][:3] + free[1]:
            break
    assert stop not in free[0][:3] + free[1]
    wanted = [free[0][:3], free[1]]
    ended = rows_of(hf_tiny, prompts, settings, end_of_text=stop)
    assert [row.tokens for row in ended] == wanted
    assert [row.finish for row in ended] == ["stop", "length"]
    assert write(hf_tiny, prompts, dataclasses.replace(settings, stop_tokens=(stop,) * 6)) == wanted
    # Suppressed, it is never drawn; what came before it stays.
    ignored = write(hf_tiny, prompts, dataclasses.replace(settings, ignore_end_of_text=True), end_of_text=stop)
    assert all(stop not in tokens and len(tokens) == 10 for tokens in ignored)
    assert ignored[0][:3] == free[0][:3]


def test_no_stop_token_comes_before_the_least_length(hf_tiny: Checkpoint) -> None:
    [prompt] = prompts_of(hf_tiny, 5)
    [free] = write(hf_tiny, [prompt], sampling(max_new_tokens=10, seed=2))
    for least in (3, 4, 6):
        settings = sampling(max_new_tokens=10, min_new_tokens=least, seed=2)
        [tokens] = write(hf_tiny, [prompt], settings, end_of_text=free[3])
        assert len(tokens) == 3 if least == 3 else len(tokens) >= least
        assert tokens[:3] == free[:3]


def test_a_row_ends_with_the_context_or_slides_past_it(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 30, 2, 31)
    found = rows_of(hf_tiny, prompts, sampling(temperature=0.0, max_new_tokens=100))
    assert [len(row.tokens) for row in found] == [2, 30, 1]
    assert [row.finish for row in found] == ["context"] * 3
    assert found[1].tokens == naive(hf_tiny.params, prompts[1], hf_tiny.config, 30)
    slid = rows_of(hf_tiny, prompts, sampling(temperature=0.0, max_new_tokens=60, past_context="slide"))
    assert [row.tokens for row in slid] == [
        naive(hf_tiny.params, prompt, hf_tiny.config, 60, slide=True) for prompt in prompts
    ]
    assert [row.finish for row in slid] == ["length"] * 3


def test_sliding_samples_do_not_depend_on_their_batch(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 30, 2, 17)
    settings = sampling(max_new_tokens=50, past_context="slide", repetition_penalty=1.3, presence_penalty=0.2)
    together = write(hf_tiny, prompts, settings)
    assert together == [write(hf_tiny, [prompt], settings)[0] for prompt in prompts]
    assert [len(tokens) for tokens in together] == [50] * 3


def test_forced_tokens_begin_the_text_and_banned_ones_never_come(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 4, 6)
    settings = sampling(temperature=0.0, max_new_tokens=8, forced_tokens=(7, 9))
    found = rows_of(hf_tiny, prompts, settings)
    for prompt, row in zip(prompts, found, strict=True):
        assert row.tokens == [7, 9, *naive(hf_tiny.params, [*prompt, 7, 9], hf_tiny.config, 6)]
        assert [math.isnan(value) for value in row.log_probs] == [True, True] + [False] * 6
    banned = (found[0].tokens[2], found[1].tokens[2])
    without = write(hf_tiny, prompts, dataclasses.replace(settings, banned_tokens=banned))
    assert not {*banned} & {token for tokens in without for token in tokens}


def test_log_probabilities_are_those_of_the_model_alone(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 4, 6)
    settings = sampling(max_new_tokens=5, temperature=3.0, repetition_penalty=2.0, top_k=50)
    for prompt, row in zip(prompts, rows_of(hf_tiny, prompts, settings, alternatives=3), strict=True):
        tokens = list(prompt)
        for token, log_prob, top in zip(row.tokens, row.log_probs, row.top, strict=True):
            logits = next_logits(hf_tiny.params, tokens, hf_tiny.config).astype(np.float64)
            wanted = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert log_prob == pytest.approx(wanted[token], abs=1e-4)
            best = np.argsort(-wanted)[:3]
            assert [one for one, _ in top] == best.tolist()
            assert [value for _, value in top] == pytest.approx(wanted[best].tolist(), abs=1e-4)
            tokens.append(token)


def test_penalties_and_bias_are_those_of_a_naive_loop(hf_tiny: Checkpoint) -> None:
    """Written out in numpy, in the documented order."""
    prompts = prompts_of(hf_tiny, 4, 6)
    settings = sampling(
        temperature=0.0,
        max_new_tokens=12,
        repetition_penalty=1.5,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        logit_bias={3: 2.0, 5: -1.0},
    )
    for prompt, tokens in zip(prompts, write(hf_tiny, prompts, settings), strict=True):
        drawn: list[int] = []
        for _ in range(12):
            logits = next_logits(hf_tiny.params, prompt + drawn, hf_tiny.config).copy()
            seen = np.zeros(300, bool)
            seen[prompt + drawn] = True
            logits = np.where(seen, np.where(logits > 0, logits / 1.5, logits * 1.5), logits)
            counts = np.bincount(drawn, minlength=300)
            logits = logits - 0.3 * (counts > 0) - 0.2 * counts
            logits[3] += 2.0
            logits[5] -= 1.0
            drawn.append(int(logits.argmax()))
        assert tokens == drawn
        assert tokens != naive(hf_tiny.params, prompt, hf_tiny.config, 12)


def test_what_cannot_be_written_is_refused(hf_tiny: Checkpoint) -> None:
    with pytest.raises(GPT2JaxError, match="prompt 2: 32 tokens: should be below the model's context of 32"):
        write(hf_tiny, prompts_of(hf_tiny, 3, 32), GREEDY)
    with pytest.raises(GPT2JaxError, match="prompt 1: no tokens"):
        write(hf_tiny, [[]], GREEDY)
    for name in ("banned_tokens", "stop_tokens", "forced_tokens"):
        with pytest.raises(GPT2JaxError, match=f"sampling.{name}: 300: should be below the vocabulary of 300"):
            write(hf_tiny, [[1]], sampling(**{name: (300,)}))
    with pytest.raises(GPT2JaxError, match="prompt 1: token 300: should be below the vocabulary of 300"):
        write(hf_tiny, [[300]], GREEDY)
    with pytest.raises(GPT2JaxError, match="banned_tokens: all of the vocabulary"):
        write(hf_tiny, [[1]], sampling(banned_tokens=tuple(range(299)), ignore_end_of_text=True), end_of_text=299)
    with pytest.raises(GPT2JaxError, match="forced_tokens: 31 of them: should leave room"):
        write(hf_tiny, [[1]], sampling(forced_tokens=(1,) * 31))
    with pytest.raises(GPT2JaxError, match="log_probs: 301: should be 0 to the vocabulary, 300"):
        write(hf_tiny, [[1]], GREEDY, alternatives=301)
    with pytest.raises(GPT2JaxError, match="requests: none"):
        write(hf_tiny, [], GREEDY)
    assert len(write(hf_tiny, [[1]], sampling(max_new_tokens=2, top_k=3_000_000_000))[0]) == 2
    with pytest.raises(GPT2JaxError, match=r"min_new_tokens: 9: should be at most sampling\.max_new_tokens \(8\)"):
        sampling(min_new_tokens=9, max_new_tokens=8)


def test_a_hundred_mixed_requests_compile_a_program_for_each_bucket(hf_tiny: Checkpoint, compiled: list[str]) -> None:
    rng = np.random.default_rng(0)
    params = decoding_params(hf_tiny.params, hf_tiny.config)
    jax.clear_caches()
    compiled.clear()
    shapes = set()
    for _ in range(100):
        settings = [
            sampling(
                max_new_tokens=int(rng.integers(1, 12)),
                temperature=float(rng.choice([0.0, 0.7, 1.0])),
                top_k=int(rng.choice([0, 5])),
                top_p=float(rng.choice([1.0, 0.9])),
                min_p=float(rng.choice([0.0, 0.1])),
                repetition_penalty=float(rng.choice([1.0, 1.2])),
                logit_bias={1: 2.0} if rng.random() < 0.3 else {},
                stop_tokens=(4,) if rng.random() < 0.3 else (),
                seed=int(rng.integers(1000)),
            )
            for _ in range(rng.integers(1, 9))
        ]
        requests = [
            Request(tuple(rng.integers(300, size=rng.integers(1, 20)).tolist()), one, number)
            for number, one in enumerate(settings)
        ]
        Batch(params, requests, hf_tiny.config, end_of_text=299).run()
        unique = len({request.prompt for request in requests})
        shapes.add((1 << (len(requests) - 1).bit_length(), 1 << (unique - 1).bit_length()))
    # The context of 32 is one bucket of lengths; rows come in 1, 2, 4 and 8.
    assert len(shapes) <= 5
    assert compiled.count("jit(start)") == len(shapes)
    assert compiled.count("jit(advance)") <= 4


def test_buckets_are_powers_of_two_up_to_the_context() -> None:
    assert [bucket(length, 1024) for length in (1, 64, 65, 1000)] == [64, 64, 128, 1024]
    assert bucket(5, 32) == bucket(5, 32, 8) == 32
    assert bucket(700, 768) == bucket(700, 768, 8) == 768


def test_several_rows_have_finer_buckets() -> None:
    lengths = range(1, 1025)
    assert sorted({bucket(length, 1024, 2) for length in lengths}) == [32, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(length <= bucket(length, 1024, 2) <= bucket(length, 1024) for length in lengths)
    assert padded([[1]], 1024)[0].shape == (1, 64)
    assert padded([[1], [2] * 32, [3]], 1024)[0].shape == (4, 32)


@pytest.mark.parametrize("settings", [{}, {"beams": 2}, {"temperature": 1.0}])
def test_texts_are_the_same_in_finer_buckets_and_alone(settings: dict[str, Any]) -> None:
    """Two together have 64 positions of prompts and 96 in all; alone 64 and 128."""
    config = ModelConfig(n_vocab=300, n_ctx=256, n_embd=32, n_head=2, n_layer=2)
    params = parameters.init(jax.random.key(0), config)
    params = decoding_params(jax.tree.map(lambda leaf: 5 * leaf, params), config)
    requests = [
        Request(
            tuple(range(length)), sampling(**{"do_sample": "temperature" in settings, "max_new_tokens": 50} | settings)
        )
        for length in (7, 40)
    ]

    def written(*requests: Request) -> list[list[int]]:
        if "beams" in settings:
            return [best.tokens for best, *_ in beam_search(params, requests, config)]
        return [row.tokens for row in Batch(params, requests, config).run()]

    together = written(*requests)
    assert together == [*written(requests[0]), *written(requests[1])]
    assert len(set(together[0])) > 3
    assert together[0] != together[1]


@pytest.mark.parametrize(("rows", "total"), [(1, 128), (2, 96)])
def test_a_batch_has_the_bucket_of_its_rows(rows: int, total: int) -> None:
    config = ModelConfig(n_vocab=64, n_ctx=256, n_embd=16, n_head=2, n_layer=1)
    params = decoding_params(parameters.init(jax.random.key(0), config), config)
    request = Request(tuple(range(20)), sampling(max_new_tokens=70))
    assert Batch(params, [request] * rows, config)._state.tokens_BS.shape == (rows, total)


def test_decoding_casts_only_what_enters_matrix_products(hf_tiny: Checkpoint) -> None:
    config = ModelConfig(**vars(hf_tiny.config) | {"compute_dtype": "bfloat16"})
    params = decoding_params(hf_tiny.params, config)
    kinds = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert all((dtype == jnp.bfloat16) == ("'c_" in path or "wte" in path) for path, dtype in kinds.items())
    [row] = Batch(params, [Request((1, 2), SamplingConfig(max_new_tokens=3))], config).run()
    assert len(row.tokens) == 3
