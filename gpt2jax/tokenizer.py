"""Text to tokens and back: GPT-2's byte-level BPE, the plain bytes, and the characters of a small corpus.

All three are a ``tiktoken.Encoding``. Special tokens are never made by accident: a corpus goes through
:func:`encode_corpus`, which makes none, and a prompt through :func:`encode_prompt`, which makes them when asked to.
"""

import base64
import functools
import hashlib
import importlib.resources
from typing import Any

import numpy as np
import tiktoken

from gpt2jax.errors import GPT2JaxError, nearest

END_OF_TEXT = "<|endoftext|>"

# The ranks of GPT-2's 50,256 byte pairs, as shipped in vocab/ (identical to OpenAI's r50k_base.tiktoken).
VOCABULARY_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

# How GPT-2 cuts text into words before merging bytes (openai/gpt-2, src/encoder.py). The group and the possessive
# quantifier change no result. What is in the group looks at nothing behind it, so tiktoken's regex engine leaves all of
# it to one that never backtracks, and encoding takes two thirds of the time; the quantifier keeps it from backtracking
# through a long run of spaces.
GPT2_PATTERN = r"""(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s++$|\s+(?!\S)|\s"""


@functools.cache
def gpt2() -> tiktoken.Encoding:
    """GPT-2's vocabulary: 50,256 byte pairs and ``<|endoftext|>`` (50256). Nothing is downloaded.

    Raises:
        GPT2JaxError: the vocabulary file of this installation is damaged.
    """
    raw = importlib.resources.files("gpt2jax").joinpath("vocab/gpt2.tiktoken").read_bytes()
    return tiktoken.Encoding(
        "gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=_parse_ranks(raw, VOCABULARY_SHA256),
        special_tokens={END_OF_TEXT: 50256},
        explicit_n_vocab=50257,
    )


def _parse_ranks(raw: bytes, sha256: str) -> dict[bytes, int]:
    """Byte pair to rank from tiktoken's text format: a line each of base64 and rank."""
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise GPT2JaxError(f"vocab/gpt2.tiktoken: sha256 {found}: should be {sha256}; install gpt2jax again")
    return {base64.b64decode(pair): int(rank) for pair, rank in (line.split() for line in raw.splitlines() if line)}


@functools.cache
def byte_level() -> tiktoken.Encoding:
    """The 256 bytes (each its own value) and ``<|endoftext|>`` (256): a vocabulary for small models."""
    return tiktoken.Encoding(
        "bytes",
        # A piece is one whole character; its bytes have no merges, so it falls apart into them.
        pat_str=r"(?s:.)",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={END_OF_TEXT: 256},
        explicit_n_vocab=257,
    )


def characters(alphabet: str) -> tiktoken.Encoding:
    """One token per character of ``alphabet``, numbered in its order, and no special token.

    nanoGPT's character vocabulary is this one over the sorted distinct characters of the corpus. A character outside
    the alphabet cannot be encoded; :func:`encode_corpus` and :func:`encode_prompt` say which one it was.
    """
    if len(set(alphabet)) != len(alphabet) or not alphabet:
        raise GPT2JaxError(f"tokenizer characters: {alphabet!r}: should be distinct characters, at least one")
    return tiktoken.Encoding(
        "characters",
        pat_str=r"(?s:.)",
        mergeable_ranks={character.encode(): token for token, character in enumerate(alphabet)},
        special_tokens={},
        explicit_n_vocab=len(alphabet),
    )


def end_of_text(encoding: tiktoken.Encoding) -> int | None:
    """The token of ``<|endoftext|>``, or None where the vocabulary has none (a character vocabulary)."""
    return encoding.eot_token if END_OF_TEXT in encoding.special_tokens_set else None


def encode_corpus(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    """Tokens [T] (uint32) of a training text; ``<|endoftext|>`` in it is ordinary text, never the special token."""
    _check_alphabet(encoding, text)
    try:
        tokens_T = encoding.encode_to_numpy(text, disallowed_special=())
    except UnicodeEncodeError:
        # A lone surrogate is not Unicode text; it becomes U+FFFD, as in encode_prompt.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        tokens_T = encoding.encode_to_numpy(text, disallowed_special=())
    return tokens_T.astype(np.uint32, copy=False)


def encode_prompt(encoding: tiktoken.Encoding, text: str, allow_special: bool = False) -> list[int]:
    """Tokens of a prompt; ``<|endoftext|>`` in it becomes the special token only with ``allow_special``."""
    _check_alphabet(encoding, text)
    return encoding.encode(text, allowed_special="all" if allow_special else set(), disallowed_special=())


def _check_alphabet(encoding: tiktoken.Encoding, text: str) -> None:
    if encoding.name != "characters":
        return
    alphabet = _alphabet(encoding)
    for character in sorted(set(text) - set(alphabet)):
        raise GPT2JaxError(f"character {character!r}: not in the vocabulary, which holds {alphabet!r}")


def _alphabet(encoding: tiktoken.Encoding) -> str:
    return "".join(encoding.decode([token]) for token in range(encoding.n_vocab))


def to_spec(encoding: tiktoken.Encoding) -> dict[str, str]:
    """What :func:`from_spec` needs to build the encoding again; goes into meta.json and checkpoints."""
    if encoding.name == "characters":
        return {"name": "characters", "characters": _alphabet(encoding)}
    return {"name": encoding.name}


def from_spec(spec: Any) -> tiktoken.Encoding:
    """The encoding that :func:`to_spec` described.

    Raises:
        GPT2JaxError: not such a description.
    """
    match spec:
        case {"name": "gpt2"}:
            return gpt2()
        case {"name": "bytes"}:
            return byte_level()
        case {"name": "characters", "characters": str(alphabet)}:
            return characters(alphabet)
        case {"name": str(name)}:
            raise GPT2JaxError(f"tokenizer: {name!r}: unknown ({nearest(name, ['gpt2', 'bytes', 'characters'])})")
    raise GPT2JaxError(f"tokenizer: {spec!r}: should be an object with a name")
