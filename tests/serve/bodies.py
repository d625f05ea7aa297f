"""Bodies that hypothesis makes: requests of our forms with values at and past every border, and what is no JSON."""

import dataclasses
import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from gpt2jax.config import SamplingConfig
from gpt2jax.serve.bodies import CompletionBody, EmbeddingBody


class Sent(NamedTuple):
    path: str
    content: bytes
    headers: dict[str, str]


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any], share: int = 10) -> st.SearchStrategy[Any]:
    """``bad`` once in so many."""
    return st.integers(1, share).flatmap(lambda draw: bad if draw == share else good)


INTS = st.sampled_from(
    [0, 1, 2, 3, 5, 8, 20, 31, 32, 255, 256, 257, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 10**30]
)
SIGNED = INTS | INTS.map(lambda value: -value) | st.integers()
FLOATS = st.sampled_from([0.0, -0.0, 5e-324, 1e-38, 1e-7, 1e-6, 0.1, 0.5, 0.999999, 1.0, 1.5, 8.0, 1e6, 1e38, 1e308])
NUMBERS = FLOATS | st.floats(0, 1) | st.floats() | SIGNED
STRANGE = [
    "",
    "a",
    "\x00",
    "\ud800",
    "\udfff",
    "é\u0301",
    "\U0001f600",
    "<|endoftext|>",
    " ",
    "\n\n",
    "a" * 31,
    "b" * 40,
]
TEXTS = (
    st.sampled_from(STRANGE)
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.text("abc \n", max_size=30)
)
TOKENS = st.lists(st.integers(0, 256) | SIGNED, max_size=34)
GOOD_TEXTS = st.text("abc é\U0001f600\n", min_size=1, max_size=9)
GOOD_TOKENS = st.lists(st.integers(0, 255), min_size=1, max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
BIAS = st.dictionaries(st.integers(-2, 260).map(str) | TEXTS, st.floats(-100, 100) | NUMBERS, max_size=5)
PROMPTS = mostly(
    GOOD_TEXTS
    | GOOD_TOKENS
    | st.lists(GOOD_TEXTS, min_size=1, max_size=3)
    | st.lists(GOOD_TOKENS, min_size=1, max_size=3),
    TEXTS | st.lists(TEXTS, max_size=3) | TOKENS | st.lists(TOKENS, max_size=3),
    4,
)

# Of most fields a value that its kind allows, of some of them one past it.
_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "max_new_tokens": st.integers(1, 40),
    "max_tokens": st.integers(0, 40),
    "min_new_tokens": st.integers(0, 6),
    "temperature": st.floats(0, 3) | FLOATS,
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.5, 2) | FLOATS,
    "presence_penalty": st.floats(-2, 2) | FLOATS,
    "frequency_penalty": st.floats(-2, 2) | FLOATS,
    "top_k": INTS,
    "seed": INTS,
    "n": st.integers(1, 3),
    "best_of": st.integers(1, 3),
    "logprobs": st.integers(0, 5),
    "logit_bias": mostly(st.dictionaries(st.integers(0, 256).map(str), st.floats(-100, 100), max_size=5), BIAS, 3),
    "stop": st.lists(GOOD_TEXTS, max_size=5) | TEXTS | st.lists(TEXTS, max_size=5),
    "stop_tokens": st.lists(st.integers(0, 256), max_size=20),
    "banned_tokens": st.lists(st.integers(0, 256), max_size=260),
    "forced_tokens": st.lists(st.integers(0, 256), max_size=5),
    "past_context": st.sampled_from(["stop", "slide"]),
    "top_p_rule": st.sampled_from(["standard", "openai"]),
    "truncate": st.sampled_from(["none", "left"]),
    "num_samples": st.just(1),
    "beams": mostly(st.just(1), st.just(2)),
    "length_penalty": mostly(st.floats(-8, 8), NUMBERS),
    "model": mostly(st.sampled_from(["tiny", None]), st.sampled_from(["gpt2", "\ud800"])),
    "user": TEXTS,
    "suffix": st.none(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "encoding_format": st.sampled_from(["float", "base64"]),
    "pool": st.sampled_from(["mean", "last"]),
    **dict.fromkeys(("echo", "stream", "do_sample", "ignore_end_of_text", "return_full_text"), st.booleans()),
}


def _field(name: str) -> st.SearchStrategy[Any]:
    likely = _BY_NAME.get(name, NUMBERS)
    return mostly(likely, ANYTHING, 20)


def _some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the fields, with values."""
    return st.lists(st.sampled_from(names), max_size=5, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: _field(name) for name in chosen})
    )


_SAMPLING = _some([field.name for field in dataclasses.fields(SamplingConfig)])
_COMPLETION = _some([name for name in CompletionBody.model_fields if name != "prompt"])
_EMBEDDING = _some([name for name in EmbeddingBody.model_fields if name != "input"])
_SCORE = st.fixed_dictionaries(
    {"input_data": mostly(st.lists(GOOD_TEXTS, min_size=1, max_size=4), st.lists(TEXTS, max_size=10), 4)},
    # So that most texts are short.
    optional={"params": mostly(_SAMPLING.map(lambda some: {"max_new_tokens": 8} | some), ANYTHING)},
)
_BODIES = st.one_of(
    _SCORE.map(lambda body: ("/score", body)),
    st.tuples(
        st.just("/v1/completions"), st.builds(lambda some, prompt: some | {"prompt": prompt}, _COMPLETION, PROMPTS)
    ),
    st.tuples(st.just("/v1/embeddings"), st.builds(lambda some, text: some | {"input": text}, _EMBEDDING, PROMPTS)),
    st.tuples(st.sampled_from(["/score", "/v1/completions", "/v1/embeddings"]), ANYTHING),
)
JSON = {"content-type": "application/json"}


def _encoded(made: tuple[str, Any]) -> Sent:
    return Sent(made[0], json.dumps(made[1]).encode(), JSON)


def _deep(depth: int) -> bytes:
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"


_RAW = st.one_of(
    st.binary(max_size=40),
    _BODIES.map(_encoded).flatmap(lambda sent: st.integers(0, len(sent.content)).map(lambda at: sent.content[:at])),
    st.integers(1, 6000).map(_deep),
    st.integers(1, 6000).map(lambda digits: b'{"prompt": "a", "seed": ' + b"9" * digits + b"}"),
    st.sampled_from(
        [b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"[]", b'"a"', b"NaN", b'{"prompt": "a", "prompt": 1}']
    ),
)
_HEADERS = st.sampled_from(
    [
        JSON,
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": ";"},
    ]
)

BODIES: st.SearchStrategy[Sent] = st.one_of(
    _BODIES.map(_encoded),
    _BODIES.map(_encoded),
    _BODIES.map(_encoded),
    st.builds(Sent, st.sampled_from(["/score", "/v1/completions", "/v1/embeddings"]), _RAW, _HEADERS),
)
