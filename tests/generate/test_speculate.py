"""A draft changes the speed and nothing else."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import model, parameters
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request
from gpt2jax.generate.speculate import Draft
from gpt2jax.partition import Partition
from tests.generate.helpers import GREEDY, prompts_of, sampling
from tests.helpers import Checkpoint, place_on


def draft_of(checkpoint: Checkpoint, noise: float, tokens: int = 3, place: Partition | None = None) -> Draft:
    """The model itself with ``noise`` in it: the more, the less they agree. With one layer less it is smaller too."""
    config = dataclasses.replace(checkpoint.config, n_layer=checkpoint.config.n_layer - (noise > 0))
    params = dict(checkpoint.params)
    if noise:
        params["h"] = jax.tree.map(lambda leaf: leaf[:-1], params["h"])
        params["wte"] = params["wte"] + noise * jax.random.normal(jax.random.key(9), params["wte"].shape)
    params = params if place is None else jax.device_put(params, place.params())
    return Draft(decoding_params(params, config, place), config, tokens)


def batch(checkpoint: Checkpoint, requests: list[Request], draft: Draft | None, **rest: object) -> Batch:
    params = decoding_params(checkpoint.params, checkpoint.config)
    return Batch(params, requests, checkpoint.config, draft=draft, **rest)  # type: ignore[arg-type]


MIXED = [
    sampling(temperature=0.0, max_new_tokens=24),
    sampling(seed=1, max_new_tokens=30),
    sampling(seed=2, top_k=20, temperature=1.5, max_new_tokens=9),
    sampling(seed=3, top_p=0.8, repetition_penalty=1.3, frequency_penalty=0.5, max_new_tokens=18),
    sampling(seed=4, stop_tokens=tuple(range(0, 300, 7)), min_new_tokens=3, forced_tokens=(5, 6)),
    sampling(seed=5, past_context="slide", max_new_tokens=60),
]


@pytest.mark.parametrize(("noise", "tokens"), [(0.0, 3), (0.02, 1), (0.02, 3), (0.02, 5), (3.0, 4)])
def test_the_texts_are_those_without_a_draft(hf_tiny: Checkpoint, noise: float, tokens: int) -> None:
    """Of drafts that are always, mostly and never right; log-probabilities and alternatives too."""
    requests = [
        Request(tuple(prompt), one) for prompt, one in zip(prompts_of(hf_tiny, 5, 5, 1, 12, 7, 20), MIXED, strict=True)
    ]
    alone = batch(hf_tiny, requests, None, alternatives=2).run()
    drafted = batch(hf_tiny, requests, draft_of(hf_tiny, noise, tokens), alternatives=2)
    for one, other in zip(alone, drafted.run(), strict=True):
        assert (other.tokens, other.finish) == (one.tokens, one.finish)
        np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-4)
        assert [[token for token, _ in top] for top in other.top] == [[token for token, _ in top] for top in one.top]
    other_seed = [dataclasses.replace(one, sampling=dataclasses.replace(one.sampling, seed=99)) for one in requests]
    # With alternatives, too: without, it would be compiled anew.
    elsewhere = batch(hf_tiny, other_seed, draft_of(hf_tiny, noise, tokens), alternatives=2)
    assert elsewhere.run()[1].tokens != alone[1].tokens


def test_a_good_draft_saves_rounds_and_a_bad_one_costs_none_more(hf_tiny: Checkpoint) -> None:
    requests = [Request((1, 2, 3), sampling(seed=1, max_new_tokens=24))]
    rounds = {}
    for noise in (0.0, 0.02, 3.0):
        drafted = batch(hf_tiny, requests, draft_of(hf_tiny, noise))
        drafted.run()
        rounds[noise] = drafted.rounds
    assert rounds[0.0] == 6  # The first token comes with the prompt; 23 are left, 4 a round.
    assert rounds[0.0] <= rounds[0.02] <= rounds[3.0] <= 23
    assert rounds[3.0] > 15


def test_the_end_of_the_context_is_written_too(hf_tiny: Checkpoint) -> None:
    """Where there is no room for a whole draft any more, none of it may be written beside its place."""
    config = hf_tiny.config
    for length in range(config.n_ctx - 6, config.n_ctx):
        requests = [Request(tuple(prompts_of(hf_tiny, length)[0]), GREEDY)]
        wanted = batch(hf_tiny, requests, None).run()[0]
        found = batch(hf_tiny, requests, draft_of(hf_tiny, 0.02, 5)).run()[0]
        assert (found.tokens, found.finish) == (wanted.tokens, "context")
        other = [Request((*requests[0].prompt[:-1], 7), GREEDY)]
        elsewhere = batch(hf_tiny, other, draft_of(hf_tiny, 0.02, 5)).run()[0]
        assert np.allclose(found.log_probs, wanted.log_probs, rtol=0, atol=1e-4)
        assert not np.allclose(elsewhere.log_probs, wanted.log_probs, rtol=0, atol=1e-4)
        assert len(found.tokens) == config.n_ctx - length


def test_streamed_by_rounds_it_is_the_same(hf_tiny: Checkpoint) -> None:
    requests = [Request((1, 2, 3), sampling(seed=index, max_new_tokens=5 + 3 * index)) for index in range(3)]
    streamed = batch(hf_tiny, requests, draft_of(hf_tiny, 0.02))
    lengths = []
    while not streamed.finished:
        streamed.advance(1)
        lengths.append(len(streamed.rows[2].tokens))
    assert len(set(lengths)) > 2
    wanted = [row.tokens for row in batch(hf_tiny, requests, None).run()]
    assert [row.tokens for row in streamed.rows] == wanted
    assert [row.tokens for row in streamed.rows] != wanted[::-1]


def test_on_a_mesh_it_is_the_same(hf_tiny: Checkpoint) -> None:
    requests = [Request((1, 2, 3), sampling(seed=index, max_new_tokens=20)) for index in range(4)]
    place = place_on(2, 2, 2)
    draft = draft_of(hf_tiny, 0.02)
    wanted = batch(hf_tiny, requests, draft)
    wanted.run()
    params = decoding_params(jax.device_put(hf_tiny.params, place.params()), hf_tiny.config, place)
    spread = Batch(params, requests, hf_tiny.config, place=place, draft=draft_of(hf_tiny, 0.02, place=place))
    assert [row.tokens for row in spread.run()] == [row.tokens for row in wanted.rows]
    assert spread.rounds == wanted.rounds
    assert len({tuple(row.tokens) for row in wanted.rows}) == 4  # Rows that went astray would show.


def test_drawn_tokens_have_the_models_distribution(hf_tiny: Checkpoint) -> None:
    """A chi-square test of the first token that is drafted, in 4,000 texts, each given the one before it.

    The draft is a poor one, so that a rule that favoured its tokens would show; its own distribution must fail.
    """
    config, draft = hf_tiny.config, draft_of(hf_tiny, 0.5)
    settings = sampling(max_new_tokens=2, seed=11, temperature=2.0)
    requests = [Request((1, 2, 3), settings, index) for index in range(4000)]
    drawn = np.array([row.tokens for row in batch(hf_tiny, requests, draft).run()])

    def chi_square(params: parameters.Params, config: ModelConfig) -> float:
        """Over 20 bins of tokens, of about the same probability."""
        firsts, counts = np.unique(drawn[:, 0], return_counts=True)
        tokens_BT = np.insert(np.array([[1, 2, 3]] * len(firsts)), 3, firsts, axis=1)
        x_BTD, _ = model.read(params, jnp.asarray(tokens_BT), config)
        p_BV = np.asarray(jax.nn.softmax(model.head(params, x_BTD, config)[:, -1, :300] / 2.0), np.float64)
        wanted_V, found_V = counts @ p_BV, np.bincount(drawn[:, 1], minlength=300)
        edges = np.searchsorted(np.cumsum(wanted_V), np.linspace(0, 4000, 21)[1:-1])
        wanted, found = (np.array([part.sum() for part in np.split(some, edges)]) for some in (wanted_V, found_V))
        assert wanted.min() > 50
        return float(((found - wanted) ** 2 / wanted).sum())

    limit = 43.8  # Passed by chance one time in a thousand, at 19 degrees of freedom.
    assert chi_square(decoding_params(hf_tiny.params, config), config) < limit
    assert chi_square(draft.params, draft.config) > limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_vocab": 299}, "draft: a vocabulary of 299: the model's is 300"),
        ({"n_ctx": 16}, "draft: a context of 16: should be the model's, 32"),
        ({}, "draft_tokens: 17: should be 1 to 16"),
    ],
)
def test_a_draft_that_does_not_fit_is_refused(hf_tiny: Checkpoint, change: dict[str, Any], message: str) -> None:
    draft = Draft({}, dataclasses.replace(hf_tiny.config, **change), 4 if change else 17)
    with pytest.raises(GPT2JaxError, match=message):
        batch(hf_tiny, [Request((1,), SamplingConfig())], draft)
