"""Which tokens may be drawn, against the two published rules written out in numpy."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from gpt2jax.config import SamplingConfig
from gpt2jax.generate.filters import NEVER, draw, filter_logits
from gpt2jax.generate.text import make_knobs


def kept(logits: list[float], **sampling: float | str) -> set[int]:
    filtered_BV = filter_logits(jnp.array([logits], jnp.float32), make_knobs(SamplingConfig(**sampling), 1))  # type: ignore[arg-type]
    return set(np.flatnonzero(np.asarray(filtered_BV[0]) > NEVER).tolist())


def reference_top_p(logits: list[float], p: float, rule: str) -> set[int]:
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    probability = np.exp(np.array(logits) - max(logits))
    probability /= probability.sum()
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


def test_the_two_rules_differ_by_the_token_that_crosses() -> None:
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    assert kept(logits, top_p=0.6) == {0, 1}
    assert kept(logits, top_p=0.6, top_p_rule="openai") == {0}
    assert kept(logits, top_p=0.0) == kept(logits, top_p=0.1, top_p_rule="openai") == {0}
    assert kept(logits, top_p=1.0) == {0, 1, 2}


@given(LOGITS, st.integers(1, 20))
def test_top_k_keeps_the_k_highest(logits: list[float], k: int) -> None:
    assert kept(logits, top_k=k) == set(sorted(range(len(logits)), key=lambda token: -logits[token])[:k])


def test_ties_at_the_cut_stay_and_top_p_works_on_what_top_k_left() -> None:
    assert kept([1.0, 2.0, 1.0, 0.0], top_k=2) == {0, 1, 2}
    logits = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert kept(logits, top_k=2, top_p=0.56) == {0}  # 0.4 / 0.7 is above 0.56; of the whole, 0.4 is not.
    assert kept(logits, top_p=0.56) == {0, 1}


def test_temperature_divides_before_top_p() -> None:
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    assert kept(logits, top_p=0.6, temperature=0.25) == {0}
    assert kept(logits, top_p=0.6, temperature=4.0) == {0, 1}


def test_draws_follow_the_distribution_and_never_take_the_padding() -> None:
    logits_BV = jnp.tile(jnp.log(jnp.array([[0.6, 0.3, 0.1, 5.0]])), (4000, 1))  # The last entry pads the vocabulary.
    keys_B = jax.random.split(jax.random.key(0), 4000)
    drawn_B = np.asarray(draw(logits_BV, make_knobs(SamplingConfig(), 4000), keys_B, n_vocab=3))
    assert np.bincount(drawn_B, minlength=4) / 4000 == pytest.approx([0.6, 0.3, 0.1, 0.0], abs=0.03)
    cold_B = np.asarray(draw(logits_BV, make_knobs(SamplingConfig(temperature=0.0), 4000), keys_B, n_vocab=3))
    assert set(cold_B.tolist()) == {0}
