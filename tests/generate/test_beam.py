"""Beam search against the plain way to do it."""

import itertools

import jax
import numpy as np
import pytest

from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.beam import beam_search
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request, Row
from tests.generate.helpers import next_logits, prompts_of, sampling, write
from tests.helpers import Checkpoint, place_on


def search(
    checkpoint: Checkpoint, prompts: list[list[int]], settings: SamplingConfig, **rest: object
) -> list[list[Row]]:
    params = decoding_params(checkpoint.params, checkpoint.config)
    requests = [Request(tuple(prompt), settings) for prompt in prompts]
    return beam_search(params, requests, checkpoint.config, **rest)  # type: ignore[arg-type]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits)


def naive(checkpoint: Checkpoint, prompt: list[int], settings: SamplingConfig) -> list[tuple[float, list[int]]]:
    """Score and new tokens (a stop token included) of the best texts: lists of texts and sorting."""
    width, room = settings.beams, checkpoint.config.n_ctx - len(prompt)
    most = min(settings.max_new_tokens, room)
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for new in range(1, most + 1):
        candidates = []
        for total, tokens in beams:
            logits = next_logits(checkpoint.params, prompt + tokens, checkpoint.config).copy()
            for token in {*prompt, *tokens}:
                over = settings.repetition_penalty
                logits[token] = logits[token] / over if logits[token] > 0 else logits[token] * over
            for token in tokens:
                logits[token] -= settings.frequency_penalty + settings.presence_penalty / tokens.count(token)
            for token, bias in settings.logit_bias.items():
                logits[token] += bias
            logits[list(settings.banned_tokens)] = -1e30
            if new <= settings.min_new_tokens:
                logits[list(settings.stop_tokens)] = -1e30
            values = log_softmax(logits)
            candidates += [(total + float(values[token]), [*tokens, token]) for token in range(len(values))]
        candidates.sort(key=lambda one: -one[0])
        over = new**settings.length_penalty
        for total, tokens in candidates[:width]:
            if tokens[-1] in settings.stop_tokens or new == most:
                ended.append((total / over, tokens))
        ended = sorted(ended, key=lambda one: -one[0])[:width]
        beams = [one for one in candidates if one[1][-1] not in settings.stop_tokens][:width]
        longest = most if settings.length_penalty > 0 else new
        if len(ended) == width and ended[-1][0] >= beams[0][0] / longest**settings.length_penalty:
            break
    return ended


STOPS = tuple(range(0, 300, 5))


@pytest.mark.parametrize(
    "settings",
    [
        sampling(beams=3, num_samples=3, max_new_tokens=8),
        sampling(beams=4, num_samples=4, max_new_tokens=9, stop_tokens=STOPS),
        sampling(beams=4, num_samples=4, max_new_tokens=9, stop_tokens=STOPS, length_penalty=0.0),
        sampling(beams=4, num_samples=4, max_new_tokens=9, stop_tokens=STOPS, length_penalty=-1.5),
        sampling(beams=2, num_samples=2, max_new_tokens=12, stop_tokens=STOPS, length_penalty=3.0, min_new_tokens=4),
        sampling(beams=5, num_samples=5, max_new_tokens=40, banned_tokens=(7, 9), logit_bias={11: 4.0}),
        sampling(beams=4, max_new_tokens=10, repetition_penalty=1.5, frequency_penalty=1.0, presence_penalty=0.5),
    ],
)
def test_beam_search_is_the_plain_one(hf_tiny: Checkpoint, settings: SamplingConfig) -> None:
    prompts = prompts_of(hf_tiny, 4, 9, 27)
    for prompt, rows in zip(prompts, search(hf_tiny, prompts, settings), strict=True):
        wanted = naive(hf_tiny, prompt, settings)
        assert len(rows) == len(wanted) == settings.beams
        for row, (_, tokens) in zip(rows, wanted, strict=True):
            stopped = tokens[-1] in settings.stop_tokens
            assert row.tokens == (tokens[:-1] if stopped else tokens)
            assert row.finish == (
                "stop" if stopped else "length" if len(tokens) == settings.max_new_tokens else "context"
            )
            assert len(row.log_probs) == len(row.tokens)
            assert (row.stop_log_prob is None) != stopped


def test_another_length_penalty_gives_other_texts(hf_tiny: Checkpoint) -> None:
    """What tells the cases above apart."""
    prompts = prompts_of(hf_tiny, 4, 9)
    found = {
        penalty: [
            row.tokens
            for rows in search(
                hf_tiny, prompts, sampling(beams=4, max_new_tokens=9, stop_tokens=STOPS, length_penalty=penalty)
            )
            for row in rows
        ]
        for penalty in (-1.5, 1.0)
    }
    assert found[-1.5] != found[1.0]
    assert sum(map(len, found[-1.5])) < sum(map(len, found[1.0]))


def test_the_log_probabilities_are_the_models(hf_tiny: Checkpoint) -> None:
    """Before bias and bans, as in sampling."""
    settings = sampling(beams=3, max_new_tokens=6, logit_bias={11: 2.0}, forced_tokens=(8,))
    [rows] = search(hf_tiny, [[1, 2, 3]], settings)
    for row in rows:
        assert row.tokens[0] == 8
        assert np.isnan(row.log_probs[0])
        for at in range(1, 6):
            values = log_softmax(next_logits(hf_tiny.params, [1, 2, 3, *row.tokens[:at]], hf_tiny.config))
            assert row.log_probs[at] == pytest.approx(values[row.tokens[at]], abs=1e-4)


def test_one_beam_is_greedy_and_more_are_no_less_probable(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 4, 9)
    greedy = write(hf_tiny, prompts, sampling(temperature=0.0, max_new_tokens=10))
    one = search(hf_tiny, prompts, sampling(beams=1, max_new_tokens=10))
    assert [rows[0].tokens for rows in one] == greedy
    many = search(hf_tiny, prompts, sampling(beams=6, max_new_tokens=10))
    for first, rows in zip(one, many, strict=True):
        assert sum(rows[0].log_probs) >= sum(first[0].log_probs) - 1e-4
    assert [rows[0].tokens for rows in many] != greedy


def test_with_beams_enough_it_finds_the_best_of_all(hf_tiny: Checkpoint) -> None:
    """Two tokens of five that are allowed: all 25 texts."""
    allowed = (3, 50, 100, 200, 250)
    banned = tuple(token for token in range(300) if token not in allowed)
    [rows] = search(hf_tiny, [[1, 2, 3]], sampling(beams=5, max_new_tokens=2, banned_tokens=banned))

    def total(tokens: tuple[int, ...]) -> float:
        value = 0.0
        for at, token in enumerate(tokens):
            logits = next_logits(hf_tiny.params, [1, 2, 3, *tokens[:at]], hf_tiny.config)[list(allowed)]
            value += log_softmax(logits)[allowed.index(token)]
        return value

    ranked = sorted(itertools.product(allowed, repeat=2), key=total, reverse=True)
    assert [tuple(row.tokens) for row in rows] == ranked[:5]


def test_more_beams_than_there_are_texts_give_those_that_there_are(hf_tiny: Checkpoint) -> None:
    """And never a banned token."""
    banned = tuple(token for token in range(300) if token not in (3, 50))
    for new, texts in ((1, 2), (2, 4), (3, 5)):
        [rows] = search(hf_tiny, [[1, 2, 3]], sampling(beams=5, max_new_tokens=new, banned_tokens=banned))
        assert len({tuple(row.tokens) for row in rows}) == len(rows) == texts
        assert all(set(row.tokens) <= {3, 50} for row in rows)


def test_prompts_do_not_depend_on_their_neighbours_or_the_mesh(hf_tiny: Checkpoint) -> None:
    settings = sampling(beams=4, max_new_tokens=9, stop_tokens=STOPS)
    prompts = prompts_of(hf_tiny, 4, 9, 2)
    together = [[row.tokens for row in rows] for rows in search(hf_tiny, prompts, settings)]
    assert together == [[row.tokens for row in search(hf_tiny, [prompt], settings)[0]] for prompt in prompts]
    place = place_on(2, 2, 2)
    spread = hf_tiny._replace(params=jax.device_put(hf_tiny.params, place.params()))
    assert [[row.tokens for row in rows] for rows in search(spread, prompts, settings, place=place)] == together
    shifted = [prompts[1], prompts[2], prompts[0]]
    assert [[row.tokens for row in rows] for rows in search(hf_tiny, shifted, settings)] != together


def test_the_end_of_text_ends_and_can_be_ignored(hf_tiny: Checkpoint) -> None:
    prompts = prompts_of(hf_tiny, 4)
    settings = {"beams": 3, "max_new_tokens": 6, "length_penalty": -2.0}
    [rows] = search(hf_tiny, prompts, sampling(**settings))
    end = rows[0].tokens[2]
    [ended] = search(hf_tiny, prompts, sampling(**settings), end_of_text=end)
    assert any(row.finish == "stop" for row in ended)
    [ignored] = search(hf_tiny, prompts, sampling(**settings, ignore_end_of_text=True), end_of_text=end)
    assert all(row.finish == "length" and end not in row.tokens for row in ignored)


def test_what_goes_with_drawing_is_refused(hf_tiny: Checkpoint) -> None:
    for name, value in {"best_of": 2, "stop": ("a",), "past_context": "slide"}.items():
        with pytest.raises(Exception, match=f"{name}: .* goes with drawing, not with beam search"):
            sampling(**{"beams": 2, name: value})
    with pytest.raises(Exception, match=r"num_samples: 3: should be at most sampling.beams \(2\)"):
        sampling(beams=2, num_samples=3)
    requests = [Request((1,), sampling(beams=beams)) for beams in (2, 3)]
    with pytest.raises(GPT2JaxError, match=r"sampling.beams: \[2, 3\]: should be the same"):
        beam_search({}, requests, hf_tiny.config)
