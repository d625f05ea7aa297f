"""How streams are cut: each token scored once, with the context that the protocol gives it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.rows import Counts, Row, count_rolling, count_strided, pair, rolling, strided

END = 999


def counted(rows: list[Row]) -> Counts:
    return Counts(len(rows), sum(len(row.tokens) - 1 for row in rows), sum(len(row.tokens) - row.first for row in rows))


@given(
    length=st.integers(1, 60),
    window=st.integers(2, 12),
    data=st.data(),
    prefix=st.sampled_from([None, END]),
)
def test_strided_scores_each_token_once(length: int, window: int, data: st.DataObject, prefix: int | None) -> None:
    stride = data.draw(st.integers(1, window))
    tokens = np.arange(length)
    stream = tokens.tolist() if prefix is None else [prefix, *tokens.tolist()]
    if len(stream) < 2:
        with pytest.raises(GPT2JaxError, match="nothing can be scored"):
            strided(tokens, window, stride, prefix)
        return
    rows = list(strided(tokens, window, stride, prefix))
    assert [token for row in rows for token in row.tokens[row.first :].tolist()] == stream[1:]
    for number, row in enumerate(rows):
        start = min(number * stride, stream.index(int(row.tokens[row.first])) - 1)
        stop = min(number * stride + window, len(stream))
        assert row.tokens.tolist() == stream[start:stop]
        assert row.tokens.dtype == np.int32
    assert count_strided(length, window, stride, prefix) == counted(rows)
    assert count_strided(length + 1, window, stride, prefix) != counted(rows)


def test_the_papers_windows_of_wikitext103() -> None:
    """Section 2.2 of the notes: 285,234 tokens at stride 32 are 8,883 windows, 9.1 million tokens."""
    assert count_strided(285_234, 1024, 32) == Counts(8_883, 9_087_295, 285_233)
    assert count_strided(285_234, 1024, 31).rows != 8_883


@given(length=st.integers(1, 40), window=st.integers(1, 9))
def test_rolling_is_the_harnesss(length: int, window: int) -> None:
    tokens = list(range(length))
    rows = list(rolling(tokens, window, END))
    expected = [_disjoint(a, b) for a, b in _harness(tokens, END, window)]
    assert [(row.tokens[: row.first].tolist(), row.tokens[row.first :].tolist()) for row in rows] == expected
    assert count_rolling(length, window) == counted(rows)


def _harness(tokens: list[int], prefix: int, window: int) -> list[tuple[list[int], list[int]]]:
    """What lm-evaluation-harness 0.4 documents of its rolling windows: (inputs, predictions) of each, as many."""
    stream = [prefix, *tokens]
    pairs = []
    for done in range(0, len(tokens), window):
        end = min(done + window, len(tokens))
        inputs = stream[max(end - window, 0) : end] if done else stream[:end]
        pairs.append((inputs, tokens[done:end]))
    return pairs


def _disjoint(inputs: list[int], predicted: list[int]) -> tuple[list[int], list[int]]:
    return inputs[: len(inputs) - (len(predicted) - 1)], predicted


def test_rolling_fills_the_last_window_with_context() -> None:
    *_, before, last = rolling(range(10), 4, END)
    assert (before.tokens.tolist(), before.first) == ([3, 4, 5, 6, 7], 1)
    assert (last.tokens.tolist(), last.first) == ([5, 6, 7, 8, 9], 3)


def test_pair_drops_the_beginning_of_the_context() -> None:
    row = pair([1, 2, 3], [4, 5], 8)
    assert (row.tokens.tolist(), row.first) == ([1, 2, 3, 4, 5], 3)
    row = pair([1, 2, 3], [4, 5], 3)  # Three are read: 2, 3, 4.
    assert (row.tokens.tolist(), row.first) == ([2, 3, 4, 5], 2)
    row = pair([], [4], 3, prefix=END)
    assert (row.tokens.tolist(), row.first) == ([END, 4], 1)
    row = pair([1, 2], [4, 5, 6], 3, prefix=END)
    assert (row.tokens.tolist(), row.first) == ([2, 4, 5, 6], 1)


def test_what_cannot_be_cut_is_refused() -> None:
    for make, message in (
        (lambda: strided([1, 2], 1, 1), "window: 1: should be at least 2"),
        (lambda: strided([1, 2], 4, 5), "stride: 5: should be 1 to the window, 4"),
        (lambda: strided([1, 2], 4, 0), "stride: 0: should be 1 to the window, 4"),
        (lambda: count_strided(1, 4, 4), "tokens: 1 with the prefix: nothing can be scored in fewer than 2"),
        (lambda: rolling([1, 2], 0, END), "window: 0: should be at least 1"),
        (lambda: rolling([], 4, END), "tokens: none: nothing can be scored"),
        (lambda: pair([1], [], 4), "continuation: 0 tokens: should be 1 to the window, 4"),
        (lambda: pair([1], [2] * 5, 4), "continuation: 5 tokens: should be 1 to the window, 4"),
        (lambda: pair([], [2], 4), "context: is empty: should have a token, or a prefix"),
        (
            lambda: pair(np.array([1.5]), [2], 4),
            r"tokens: float64 of shape \(1,\): should be one sequence of 32-bit integers",
        ),
        (lambda: pair([2**40], [2], 4), "should be one sequence of 32-bit integers"),
    ):
        with pytest.raises(GPT2JaxError, match=message):
            make()
