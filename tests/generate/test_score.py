"""Log-probabilities of texts that are there already."""

import dataclasses

import numpy as np
import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.score import score
from tests.generate.helpers import forward, prompts_of, rows_of, sampling
from tests.helpers import Checkpoint


def log_probs(checkpoint: Checkpoint, tokens: list[int]) -> np.ndarray:
    config = checkpoint.config
    logits = np.asarray(
        forward(checkpoint.params, np.array([tokens]), config=config)[0, :, : config.n_vocab], np.float64
    )
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def test_scores_are_the_forward_passs(hf_tiny: Checkpoint) -> None:
    texts = prompts_of(hf_tiny, 5, 32, 1, 17)
    params = decoding_params(hf_tiny.params, hf_tiny.config)
    scores = score(params, texts, hf_tiny.config, alternatives=3, batch_size=2)
    for text, one in zip(texts, scores, strict=True):
        wanted = log_probs(hf_tiny, text)
        assert len(one.log_probs) == len(one.top) == len(text) - 1
        for at, value in enumerate(one.log_probs):
            assert value == pytest.approx(wanted[at, text[at + 1]], abs=1e-4)
            assert value != pytest.approx(wanted[at, text[at]], abs=1e-4)  # Shifted by one it is another's.
            best = np.argsort(-wanted[at])[:3]
            assert [token for token, _ in one.top[at]] == best.tolist()
            np.testing.assert_allclose([value for _, value in one.top[at]], wanted[at, best], atol=1e-4)


def test_a_context_that_is_no_multiple_of_the_chunk(hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk overlaps the one before it."""
    monkeypatch.setattr("gpt2jax.generate.score.CHUNK", 12)
    config = dataclasses.replace(hf_tiny.config, layer_norm_epsilon=hf_tiny.config.layer_norm_epsilon * (1 + 1e-9))
    [text] = prompts_of(hf_tiny, 32)
    [found] = score(decoding_params(hf_tiny.params, config), [text], config)  # Another config: compiled anew.
    wanted = log_probs(hf_tiny, text)
    np.testing.assert_allclose(found.log_probs, [wanted[at, text[at + 1]] for at in range(31)], atol=1e-4)


def test_scores_of_drawn_texts_are_those_of_the_draws(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 5, 9)
    rows = rows_of(hf_tiny, prompts, sampling(seed=3, max_new_tokens=10))
    params = decoding_params(hf_tiny.params, hf_tiny.config)
    for row, one in zip(rows, score(params, [row.text_tokens for row in rows], hf_tiny.config), strict=True):
        np.testing.assert_allclose(one.log_probs[-10:], row.log_probs, atol=1e-4)


def test_texts_that_cannot_be_read_are_refused(hf_tiny: Checkpoint) -> None:
    for text, message in (
        ([], "text 2: 0 tokens: should be 1 to the context, 32"),
        ([1] * 33, "text 2: 33 tokens: should be 1 to the context, 32"),
        ([1, 300], "text 2: a token outside of the vocabulary of 300"),
        ([-1], "text 2: a token outside of the vocabulary of 300"),
    ):
        with pytest.raises(GPT2JaxError, match=message):
            score({}, [[1], text], hf_tiny.config)
