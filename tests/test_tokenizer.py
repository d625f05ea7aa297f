"""Text to tokens and back, against public vectors and a plain byte-pair encoder."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from gpt2jax import tokenizer
from gpt2jax.errors import GPT2JaxError

# OpenAI's own pattern (openai/gpt-2, src/encoder.py), without the group and the possessive quantifier of ours.
OPENAI_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# minGPT's example (karpathy/minGPT, mingpt/bpe.py).
BPE_TEXT = "Hello!! I'm Andrej Karpathy. It's 2022. w00t :D 🤗"
BPE_VECTOR = [
    15496,
    3228,
    314,
    1101,
    10948,
    73,
    509,
    5117,
    10036,
    13,
    632,
    338,
    33160,
    13,
    266,
    405,
    83,
    1058,
    35,
    12520,
]
BPE_VECTOR += [97, 245]
END_OF_TEXT_SPELT = [27, 91, 437, 1659, 5239, 91, 29]

# Runs of spaces and newlines, contractions, digits, marks and emoji, beside arbitrary text.
PIECES = [
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "\u00a0",
    "a",
    "The",
    "é",
    "漢",
    "🤗",
    "09",
    "²",
    "'s",
    "'LL",
    "'",
    "_.",
]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from([*PIECES, "<|endoftext|>"]), max_size=12).map("".join))


def plain_bpe(text: str, ranks: dict[bytes, int]) -> list[int]:
    """GPT-2's encoder as its authors describe it: in each word, merge the pair of lowest rank until none is left."""
    tokens = []
    for word in regex.findall(OPENAI_PATTERN, text):
        parts = [bytes([value]) for value in word.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
            if parts[best] + parts[best + 1] not in ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        tokens += [ranks[part] for part in parts]
    return tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (BPE_TEXT, BPE_VECTOR),
        ("The quick brown fox.", [464, 2068, 7586, 21831, 13]),
        (
            "First Citizen:\nBefore we proceed any further, hear me speak.\n\n",
            [5962, 22307, 25, 198, 8421, 356, 5120, 597, 2252, 11, 3285, 502, 2740, 13, 628],
        ),
        ("", []),
    ],
)
def test_gpt2_tokens_are_the_published_ones(text: str, tokens: list[int]) -> None:
    encoding = tokenizer.gpt2()
    assert tokenizer.encode_prompt(encoding, text) == tokens
    assert tokenizer.encode_corpus(encoding, text).tolist() == tokens
    assert encoding.decode(tokens) == text


@given(TEXT)
def test_gpt2_tokens_are_those_of_a_plain_byte_pair_encoder(text: str) -> None:
    encoding = tokenizer.gpt2()
    assert tokenizer.encode_prompt(encoding, text) == plain_bpe(text, encoding._mergeable_ranks)


def with_pattern(pattern: str) -> tiktoken.Encoding:
    gpt2 = tokenizer.gpt2()
    return tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=gpt2._mergeable_ranks, special_tokens=gpt2._special_tokens
    )


@pytest.mark.parametrize("run", ["a", "1", "!", " ", "\n", "\t ", "é", " a", "'", "'s", "\u3000", "a1!' "])
def test_long_runs_are_cut_as_by_tiktokens_own_pattern(run: str) -> None:
    theirs = with_pattern(r50k_pat_str)
    for text in (run * 20_000, run * 20_000 + "x", f"x{run * 20_000} ", f"x  {run * 20_000}\n\n x"):
        assert np.array_equal(
            tokenizer.encode_corpus(tokenizer.gpt2(), text), theirs.encode_to_numpy(text, disallowed_special=())
        )


def test_another_order_of_the_pattern_cuts_otherwise() -> None:
    others_first = r"""(?: ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|'(?:[sdmt]|ll|ve|re))|\s++$|\s+(?!\S)|\s"""
    assert sorted(others_first) == sorted(tokenizer.GPT2_PATTERN)
    assert with_pattern(others_first).encode("it's") != tokenizer.gpt2().encode("it's")


@given(TEXT)
def test_decoding_undoes_encoding(text: str) -> None:
    characters = tokenizer.characters("".join(sorted(set(text))) or "x")
    for encoding in (tokenizer.gpt2(), tokenizer.byte_level(), characters):
        assert encoding.decode(tokenizer.encode_prompt(encoding, text)) == text
        corpus = tokenizer.encode_corpus(encoding, text)
        assert corpus.dtype == np.uint32
        assert encoding.decode(corpus.tolist()) == text


@given(TEXT)
def test_byte_tokens_are_the_bytes(text: str) -> None:
    assert tokenizer.encode_prompt(tokenizer.byte_level(), text) == list(text.encode())


def test_character_tokens_follow_the_alphabets_order() -> None:
    encoding = tokenizer.characters("cab\n漢")
    assert tokenizer.encode_prompt(encoding, "abc漢\n") == [1, 2, 0, 4, 3]
    assert encoding.n_vocab == 5


def test_vocabulary_sizes_and_end_of_text() -> None:
    gpt2, byte_level, characters = tokenizer.gpt2(), tokenizer.byte_level(), tokenizer.characters("ab")
    assert (gpt2.n_vocab, byte_level.n_vocab, characters.n_vocab) == (50257, 257, 2)
    assert tokenizer.end_of_text(gpt2) == 50256
    assert tokenizer.end_of_text(byte_level) == 256
    assert tokenizer.end_of_text(characters) is None


def test_end_of_text_in_a_corpus_is_ordinary_text() -> None:
    assert tokenizer.encode_corpus(tokenizer.gpt2(), "<|endoftext|>").tolist() == END_OF_TEXT_SPELT
    assert tokenizer.encode_corpus(tokenizer.byte_level(), "<|endoftext|>").tolist() == list(b"<|endoftext|>")


def test_end_of_text_in_a_prompt_is_special_only_when_allowed() -> None:
    gpt2, byte_level = tokenizer.gpt2(), tokenizer.byte_level()
    assert tokenizer.encode_prompt(gpt2, "<|endoftext|>") == END_OF_TEXT_SPELT
    assert tokenizer.encode_prompt(gpt2, "<|endoftext|>", allow_special=True) == [50256]
    assert tokenizer.encode_prompt(gpt2, "The<|endoftext|>The", allow_special=True) == [464, 50256, 464]
    assert tokenizer.encode_prompt(byte_level, "a<|endoftext|>", allow_special=True) == [97, 256]


def test_a_changed_byte_in_the_vocabulary_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytearray(importlib.resources.files("gpt2jax").joinpath("vocab/gpt2.tiktoken").read_bytes())
    (tmp_path / "vocab").mkdir()
    monkeypatch.setattr(tokenizer.importlib.resources, "files", lambda package: tmp_path)

    (tmp_path / "vocab" / "gpt2.tiktoken").write_bytes(raw)
    assert tokenizer.gpt2.__wrapped__().n_vocab == 50257

    raw[400_000] ^= 1
    (tmp_path / "vocab" / "gpt2.tiktoken").write_bytes(raw)
    with pytest.raises(GPT2JaxError, match=r"^vocab/gpt2\.tiktoken: sha256 .* should be 306cd27f"):
        tokenizer.gpt2.__wrapped__()


def test_a_description_builds_the_same_encoding_again() -> None:
    text = "to be\nor not"
    for encoding in (tokenizer.gpt2(), tokenizer.byte_level(), tokenizer.characters("".join(sorted(set(text))))):
        again = tokenizer.from_spec(tokenizer.to_spec(encoding))
        assert again.name == encoding.name
        assert again.n_vocab == encoding.n_vocab
        assert again.encode(text) == encoding.encode(text)
    assert tokenizer.to_spec(tokenizer.characters("ba")) == {"name": "characters", "characters": "ba"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "gpt3"}, r"'gpt3': unknown \(nearest: gpt2\)"),
        ({"name": "characters"}, "characters"),
        ({}, "should be an object with a name"),
        (None, "should be an object with a name"),
        (["gpt2"], "should be an object with a name"),
    ],
)
def test_a_wrong_description_is_refused(spec: object, message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        tokenizer.from_spec(spec)


def test_a_character_outside_the_alphabet_is_named() -> None:
    encoding = tokenizer.characters("ab")
    with pytest.raises(GPT2JaxError, match=r"^character 'c': not in the vocabulary"):
        tokenizer.encode_prompt(encoding, "abc")
    with pytest.raises(GPT2JaxError, match=r"^character 'é': not in the vocabulary"):
        tokenizer.encode_corpus(encoding, "aé")


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_an_alphabet_is_distinct_characters(alphabet: str) -> None:
    with pytest.raises(GPT2JaxError, match="should be distinct characters"):
        tokenizer.characters(alphabet)
