"""Which tokens may be drawn, against the published rules written out in numpy."""

from collections.abc import Callable

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from gpt2jax.config import ModelConfig
from gpt2jax.generate.filters import NEVER, History, Knobs, adjust_logits, draw, filter_logits, most_probable
from gpt2jax.generate.request import make_knobs
from tests.generate.helpers import sampling


def knobs_of(count: int, vocab: int, **settings: object) -> Knobs:
    """For a vocabulary of any size, which a model's padded one is not."""
    config = ModelConfig(n_vocab=vocab, n_embd=8, n_head=1)
    knobs = make_knobs([sampling(**settings)] * count, count, config)
    return jax.tree.map(lambda leaf: leaf[..., :vocab] if leaf.ndim == 2 else leaf, knobs)


def adjusted(logits: list[float], prompt: list[int], drawn: list[int], **settings: object) -> np.ndarray:
    size = len(logits)
    history = History(
        jnp.zeros((1, size), bool).at[0, jnp.array(prompt, int)].set(True), jnp.zeros((1, size), jnp.int32)
    )
    for token in drawn:
        history = history.add(jnp.array([token]), jnp.array([True]))
    stop_BM = jnp.array([[settings.pop("stop", -1)]], jnp.int32)
    found_BV = adjust_logits(
        jnp.array([logits], jnp.float32),
        knobs_of(1, size, **settings),
        history,
        stop_BM,
        jnp.array([len(drawn)], jnp.int32),
        size,
    )
    return np.asarray(found_BV[0])


def kept(logits: list[float], **settings: object) -> set[int]:
    filtered_BV = jax.jit(filter_logits)(jnp.array([logits], jnp.float32), knobs_of(1, len(logits), **settings))
    return set(np.flatnonzero(np.asarray(filtered_BV[0]) > NEVER).tolist())


def probabilities(logits: list[float]) -> np.ndarray:
    probability = np.exp(np.array(logits) - max(logits))
    return probability / probability.sum()


def reference_top_p(logits: list[float], p: float, rule: str) -> set[int]:
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    probability = probabilities(logits)
    chosen: set[int] = set()
    mass = 0.0
    for token in order:
        if rule == "openai" and mass + probability[token] > p:
            break
        if rule == "standard" and mass >= p:
            break
        chosen.add(token)
        mass += probability[token]
    return chosen or {order[0]}


# Distinct by a margin, so that float32 and float64 order them and sum them alike.
LOGITS = st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True).map(lambda xs: [x / 8 for x in xs])


@given(LOGITS, st.floats(0.01, 0.99), st.sampled_from(["standard", "openai"]))
def test_top_p_is_the_named_rule(logits: list[float], p: float, rule: str) -> None:
    wanted = reference_top_p(logits, p, rule)
    # Where the mass comes within rounding of p, either side is right.
    if reference_top_p(logits, p - 1e-5, rule) == wanted == reference_top_p(logits, p + 1e-5, rule):
        assert kept(logits, top_p=p, top_p_rule=rule) == wanted


@given(LOGITS, st.floats(0.01, 0.99))
def test_the_mass_that_is_kept_is_on_its_side_of_p(logits: list[float], p: float) -> None:
    probability = probabilities(logits)
    standard = kept(logits, top_p=p)
    assert probability[list(standard)].sum() >= p - 1e-5
    openai = kept(logits, top_p=p, top_p_rule="openai")
    assert probability[list(openai)].sum() <= p + 1e-5 or len(openai) == 1
    assert openai <= standard


@given(LOGITS, st.floats(0.01, 1.0))
def test_min_p_is_a_share_of_the_most_probable(logits: list[float], p: float) -> None:
    probability = probabilities(logits)

    def reference(p: float) -> set[int]:
        return set(np.flatnonzero(probability >= p * probability.max()).tolist()) or {int(probability.argmax())}

    if reference(p - 1e-5) == reference(p + 1e-5):
        assert kept(logits, min_p=p) == reference(p)
    assert kept(logits, min_p=0.0) == set(range(len(logits)))


def test_the_two_rules_differ_by_the_token_that_crosses() -> None:
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    assert kept(logits, top_p=0.6) == {0, 1}
    assert kept(logits, top_p=0.6, top_p_rule="openai") == {0}
    assert kept(logits, top_p=0.0) == kept(logits, top_p=0.1, top_p_rule="openai") == {0}
    assert kept(logits, top_p=1.0) == {0, 1, 2}


@given(LOGITS, st.integers(1, 20))
def test_top_k_keeps_the_k_highest(logits: list[float], k: int) -> None:
    assert kept(logits, top_k=k) == set(sorted(range(len(logits)), key=lambda token: -logits[token])[:k])


def test_ties_at_the_cut_stay_and_each_cut_works_on_what_the_last_left() -> None:
    assert kept([1.0, 2.0, 1.0, 0.0], top_k=2) == {0, 1, 2}
    assert kept([1.0, 1.0, 1.0], min_p=1.0) == {0, 1, 2}
    logits = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert kept(logits, top_k=2, top_p=0.56) == {0}  # 0.4 / 0.7 is above 0.56; of the whole, 0.4 is not.
    assert kept(logits, top_p=0.56) == {0, 1}
    assert kept(logits, top_p=0.95, min_p=0.6) == {0, 1}


def test_temperature_divides_before_the_cuts() -> None:
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    assert kept(logits, top_p=0.6, temperature=0.25) == {0}
    assert kept(logits, top_p=0.6, temperature=4.0) == {0, 1}
    assert kept(logits, min_p=0.5, temperature=4.0) == {0, 1, 2}


def test_the_coldest_temperature_takes_the_most_probable() -> None:
    for logits in ([-100.0, -101.0, -99.0], [5.0, 4.0, 6.0]):
        for temperature in (1e-37, 1e-30, 1e-6):
            assert 2 in kept(logits, temperature=temperature)
            knobs = knobs_of(1, 3, temperature=temperature)
            drawn = draw(jnp.array([logits], jnp.float32), knobs, jax.random.split(jax.random.key(0), 1))
            assert int(drawn[0]) == 2


def test_penalties_are_the_published_ones() -> None:
    logits = [2.0, -2.0, 1.0, 0.5]
    assert adjusted(logits, [0, 1], [], repetition_penalty=2.0).tolist() == [1.0, -4.0, 1.0, 0.5]
    assert adjusted(logits, [], [2, 2], repetition_penalty=2.0).tolist() == [2.0, -2.0, 0.5, 0.5]
    assert adjusted(logits, [0], [2, 2], presence_penalty=0.5).tolist() == [2.0, -2.0, 0.5, 0.5]
    assert adjusted(logits, [0], [2, 2], frequency_penalty=0.5).tolist() == [2.0, -2.0, 0.0, 0.5]
    assert adjusted(logits, [0], [2, 2]).tolist() == logits


def test_order_is_penalty_then_bias() -> None:
    found = adjusted([2.0, 1.0], [0], [0], repetition_penalty=2.0, presence_penalty=0.25, logit_bias={0: 10.0})
    assert found.tolist() == [2.0 / 2.0 - 0.25 + 10.0, 1.0]


def test_bans_hold_at_any_temperature_and_leave_one_candidate() -> None:
    banned = adjusted([2.0, 1.0, 0.0], [], [], banned_tokens=(0, 2))
    assert (banned <= NEVER).tolist() == [True, False, True]
    for settings in (
        {"temperature": 100.0},
        {"top_k": 3},
        {"top_p": 0.99},
        {"min_p": 0.01},
        {"top_k": 3, "top_p": 0.9},
    ):
        assert kept(banned.tolist(), **settings) == {1}
    # A bias brings nothing back that is banned, and what is banned for now may come later.
    assert adjusted([2.0, 1.0], [], [], banned_tokens=(0,), logit_bias={0: 50.0})[0] <= NEVER
    assert adjusted([2.0, 1.0], [], [], min_new_tokens=1, stop=0)[0] <= NEVER
    assert adjusted([2.0, 1.0], [], [1], min_new_tokens=1, stop=0)[0] == 2.0


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.05}])
def test_draws_follow_the_distribution_and_never_take_the_padding(settings: dict[str, float]) -> None:
    config = ModelConfig(n_vocab=3, n_embd=8, n_head=1)  # 128 rows, of which 125 pad.
    logits_BV = jnp.tile(jnp.full(128, 5.0).at[:3].set(jnp.log(jnp.array([0.6, 0.3, 0.1]))), (4000, 1))
    history = History(jnp.zeros((4000, 128), bool), jnp.zeros((4000, 128), jnp.int32))
    none_BM, zero_B = jnp.full((4000, 1), -1, jnp.int32), jnp.zeros(4000, jnp.int32)
    keys_B = jax.random.split(jax.random.key(0), 4000)

    def drawn(**settings: object) -> np.ndarray:
        knobs = make_knobs([sampling(**settings)] * 4000, 4000, config)
        adjusted_BV = adjust_logits(logits_BV, knobs, history, none_BM, zero_B, 3)
        return np.asarray(draw(adjusted_BV, knobs, keys_B))

    wanted = [0.6, 0.3, 0.1] if settings in ({}, {"min_p": 0.05}) else [2 / 3, 1 / 3, 0.0]
    found = np.bincount(drawn(**settings), minlength=128) / 4000
    assert found[:3].tolist() == pytest.approx(wanted, abs=0.03)
    assert not found[3:].any()
    assert set(drawn(temperature=0.0, **settings).tolist()) == {0}


def test_draws_over_many_groups_follow_the_distribution() -> None:
    """Over 1,000 tokens, eight a group, of which every third has no mass: the statistic of Pearson's test."""
    draws = 20_000
    wanted_V = np.arange(1000) % 3 * np.random.default_rng(0).uniform(0.2, 1.0, 1000)
    logits_V = jnp.where(jnp.asarray(wanted_V > 0), jnp.log(jnp.asarray(wanted_V, jnp.float32)), NEVER)
    keys_B = jax.random.split(jax.random.key(1), draws)
    token_B = draw(jnp.tile(logits_V, (draws, 1)), knobs_of(draws, 1000), keys_B)
    found_V = np.bincount(np.asarray(token_B), minlength=1000)
    assert not found_V[wanted_V == 0].any()

    def statistic(probability_V: np.ndarray) -> float:
        some = probability_V > 0
        expected = draws * probability_V[some] / probability_V.sum()
        return float(((found_V[some] - expected) ** 2 / expected).sum())

    freedom = int((wanted_V > 0).sum()) - 1
    assert abs(statistic(wanted_V) - freedom) < 4 * (2 * freedom) ** 0.5
    assert statistic(np.where(wanted_V > 0, np.roll(wanted_V, 3), 0)) > 2 * freedom  # Of other tokens' probabilities.


@pytest.mark.parametrize("settings", [{"top_k": 40}, {"top_p": 0.9}, {"top_p": 0.9, "top_p_rule": "openai"}])
def test_cuts_of_a_whole_vocabulary_are_those_of_sorting_it(settings: dict[str, object]) -> None:
    """With ties: the logits are multiples of 1/64."""
    logits_BV = np.round(np.random.default_rng(0).standard_normal((3, 50_304)) * 3 * 64) / 64
    found_BV = filter_logits(jnp.asarray(logits_BV, jnp.float32), knobs_of(3, 50_304, **settings))
    for logits_V, found_V in zip(logits_BV, np.asarray(found_BV), strict=True):
        sorted_V = np.sort(logits_V)[::-1]
        mass_V = np.cumsum(probabilities(sorted_V.tolist()))
        if settings.get("top_k"):
            last = 39
        elif "top_p_rule" in settings:
            last = int(np.flatnonzero(mass_V <= 0.9)[-1])
        else:
            last = int(np.flatnonzero(mass_V >= 0.9)[0])
        assert np.array_equal(found_V > NEVER, logits_V >= sorted_V[last])
        assert not np.array_equal(found_V > NEVER, logits_V >= sorted_V[last] + 1 / 64)


@pytest.mark.parametrize("vocab", [384, 300])
def test_the_most_probable_token_is_the_first_of_the_largest(vocab: int) -> None:
    rng = np.random.default_rng(0)
    logits_BV = rng.integers(0, 40, (500, vocab)).astype(np.float32)  # Many tie, within a group and across groups.
    logits_BV[:3] = NEVER
    logits_BV[3] = np.nan  # As a model that has broken gives them.
    found_B = np.asarray(most_probable(jnp.asarray(logits_BV)))
    assert np.array_equal(found_B, np.argmax(logits_BV, axis=-1))
    assert not np.array_equal(found_B, vocab - 1 - np.argmax(logits_BV[:, ::-1], axis=-1))  # Nor the last of them.


def test_of_tokens_that_tie_at_p_openai_keeps_all_if_one_fits() -> None:
    logits = np.log([0.4, 0.2, 0.2, 0.2]).tolist()
    assert kept(logits, top_p=0.65, top_p_rule="openai") == {0, 1, 2, 3}
    assert kept(logits, top_p=0.55, top_p_rule="openai") == {0}
    assert kept(logits, top_p=0.55) == {0, 1, 2, 3}


def test_a_row_draws_by_its_own_key_and_settings() -> None:
    config = ModelConfig(n_vocab=100, n_embd=8, n_head=1)
    logits_BV = jnp.asarray(np.random.default_rng(0).standard_normal((4, 128)), jnp.float32)
    keys_B = jax.random.split(jax.random.key(0), 4)
    mixed = [sampling(), sampling(temperature=0.0), sampling(top_k=3), sampling(top_p=0.2, temperature=2.0)]
    draw_of: Callable[..., list[int]] = lambda logits, knobs, keys: np.asarray(draw(logits, knobs, keys)).tolist()  # noqa: E731
    together = draw_of(logits_BV, make_knobs(mixed, 4, config), keys_B)
    for row, one in enumerate(mixed):
        alone = draw_of(logits_BV[row : row + 1], make_knobs([one], 1, config), keys_B[row : row + 1])
        assert alone == together[row : row + 1]
