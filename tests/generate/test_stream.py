"""Text as it comes: whole characters, and nothing of a stop string."""

import hypothesis.strategies as st
from hypothesis import given

from gpt2jax import tokenizer
from gpt2jax.generate.stream import TextStream

BYTES = tokenizer.byte_level()


def pieces_of(text: str, *stop: str) -> tuple[list[str], TextStream]:
    stream = TextStream(BYTES, stop)
    pieces = [stream.add(token) for token in text.encode()]
    return [*pieces, stream.finish()], stream


def test_a_character_comes_whole() -> None:
    pieces, _ = pieces_of("aé🤗b")
    assert [piece for piece in pieces if piece] == ["a", "é", "🤗", "b"]
    stream = TextStream(BYTES)
    assert [stream.add(token) for token in "🤗".encode()[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"  # What stays cut is shown as such.


def test_a_stop_string_ends_the_text_and_is_not_in_it() -> None:
    pieces, stream = pieces_of("one\n\ntwo\n\n", "\n\n")
    assert "".join(pieces) == stream.text == "one"
    assert stream.ended
    assert pieces_of("one\ntwo", "\n\n")[0][3:5] == ["", "\nt"]  # Held back until it is certain.


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert pieces_of("abcd", "cd", "bc")[1].text == "a"
    assert pieces_of("aab", "aab")[1].text == ""
    assert pieces_of("aaab", "aab")[1].text == "a"


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_make_up_the_text_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces, stream = pieces_of(text, *stop)
    # The first to be complete ends the text; of several complete at once the one that began first.
    wanted = text
    for end in range(1, len(text) + 1):
        begun = [text.find(one, 0, end) for one in stop if text.find(one, 0, end) >= 0]
        if begun:
            wanted = text[: min(begun)]
            break
    assert "".join(pieces) == stream.text == wanted
    assert stream.ended == (wanted != text)
    for at in range(len(pieces)):  # Nothing is ever taken back.
        assert wanted.startswith("".join(pieces[:at]))
