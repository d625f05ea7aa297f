"""The engine against the naive loop, and a row against its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import model
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import bucket, decoding_params, generate
from gpt2jax.generate.text import make_knobs
from gpt2jax.parameters import Params
from tests.helpers import Checkpoint

GREEDY = SamplingConfig(temperature=0.0)
WARM = SamplingConfig(temperature=1.0)


def run(
    checkpoint: Checkpoint, prompts: list[list[int]], sampling: SamplingConfig, new: int, **rest: object
) -> list[list[int]]:
    params = decoding_params(checkpoint.params, checkpoint.config)
    knobs = make_knobs(sampling, len(prompts))
    return generate(params, prompts, checkpoint.config, knobs=knobs, max_new_tokens=new, **rest)  # type: ignore[arg-type]


def naive(params: Params, prompt: list[int], config: ModelConfig, new: int) -> list[int]:
    """Greedy by the whole forward pass at every token, over the whole context so that it compiles once."""
    tokens = list(prompt)
    for _ in range(new):
        padded_BT = jnp.array([tokens + [0] * (config.n_ctx - len(tokens))], jnp.int32)
        logits_BTV = forward(params, padded_BT, config=config)
        tokens.append(int(logits_BTV[0, len(tokens) - 1, : config.n_vocab].argmax()))
    return tokens[len(prompt) :]


forward = jax.jit(model.forward, static_argnames="config")


def prompts_of(checkpoint: Checkpoint, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(checkpoint.config.n_vocab, size=length).tolist() for length in lengths]


def test_greedy_is_the_naive_loop_for_every_length_in_a_batch(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 1, 5, 9, 20)
    wanted = [naive(hf_tiny.params, prompt, hf_tiny.config, 8) for prompt in prompts]
    assert run(hf_tiny, prompts, GREEDY, 8) == wanted
    shifted = [naive(hf_tiny.params, prompt[1:] or [7], hf_tiny.config, 8) for prompt in prompts]
    assert shifted != wanted


def test_greedy_is_openais_own_continuation(openai_tiny: Checkpoint) -> None:
    prompts = openai_tiny.expected["greedy_prompt"].tolist()
    wanted = openai_tiny.expected["greedy"].tolist()
    new = len(wanted[0]) - len(prompts[0])
    assert [
        prompt + tokens for prompt, tokens in zip(prompts, run(openai_tiny, prompts, GREEDY, new), strict=True)
    ] == wanted


def test_a_sample_does_not_depend_on_its_batch(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 3, 11, 7)
    together = run(hf_tiny, prompts, WARM, 12, seed=5)
    assert together == [run(hf_tiny, [prompt], WARM, 12, seed=5)[0] for prompt in prompts]
    assert together[::-1] == run(hf_tiny, prompts[::-1], WARM, 12, seed=5)
    assert together != run(hf_tiny, prompts, WARM, 12, seed=6)


def test_samples_of_one_prompt_differ_by_their_index(hf_tiny: Checkpoint) -> None:
    [prompt] = prompts_of(hf_tiny, 4)
    four = run(hf_tiny, [prompt] * 4, WARM, 12, sample_index=[0, 1, 2, 3])
    assert len({tuple(tokens) for tokens in four}) == 4
    assert run(hf_tiny, [prompt], WARM, 12, sample_index=[2]) == [four[2]]


def test_a_row_ends_at_the_stop_token_and_the_others_go_on(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 5, 6)
    free = run(hf_tiny, prompts, GREEDY, 10)
    stop = free[0][3]
    wanted = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert run(hf_tiny, prompts, GREEDY, 10, stop_token=stop) == wanted
    assert len(wanted[0]) < 10


def test_a_row_ends_with_the_context(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 30, 2, 31)
    found = run(hf_tiny, prompts, GREEDY, 100)
    assert [len(tokens) for tokens in found] == [2, 30, 1]
    assert found[1] == naive(hf_tiny.params, prompts[1], hf_tiny.config, 30)


def test_prompts_that_leave_no_room_are_refused(hf_tiny: Checkpoint) -> None:
    with pytest.raises(GPT2JaxError, match="prompt 1: 32 tokens: should be below the model's context of 32"):
        run(hf_tiny, prompts_of(hf_tiny, 3, 32), GREEDY, 1)
    with pytest.raises(GPT2JaxError, match="prompt 0: no tokens"):
        run(hf_tiny, [[]], GREEDY, 1)


def test_settings_and_lengths_of_a_bucket_compile_once(hf_tiny: Checkpoint, compiled: list[str]) -> None:
    params = decoding_params(hf_tiny.params, hf_tiny.config)
    compiled.clear()
    for length in (2, 9, 17):
        for sampling in (GREEDY, WARM, SamplingConfig(top_k=5), SamplingConfig(top_p=0.5, top_p_rule="openai")):
            knobs = make_knobs(sampling, 5)
            prompts = prompts_of(hf_tiny, *[length] * 5)
            generate(
                params, prompts, hf_tiny.config, knobs=knobs, max_new_tokens=length, seed=length, stop_token=length
            )
    assert compiled.count("jit(_run)") == 1
    generate(params, prompts_of(hf_tiny, *[3] * 6), hf_tiny.config, knobs=make_knobs(WARM, 6), max_new_tokens=2)
    assert compiled.count("jit(_run)") == 2  # Another batch size is another program.


def test_buckets_are_powers_of_two_up_to_the_context() -> None:
    assert [bucket(length, 1024) for length in (1, 64, 65, 1000)] == [64, 64, 128, 1024]
    assert bucket(5, 32) == 32
    assert bucket(700, 768) == 768


def test_decoding_casts_only_what_enters_matrix_products(hf_tiny: Checkpoint) -> None:
    config = ModelConfig(**vars(hf_tiny.config) | {"compute_dtype": "bfloat16"})
    params = decoding_params(hf_tiny.params, config)
    kinds = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert all((dtype == jnp.bfloat16) == ("'c_" in path or "wte" in path) for path, dtype in kinds.items())
    assert len(generate(params, [[1, 2]], config, knobs=make_knobs(WARM, 1), max_new_tokens=3)[0]) == 3
