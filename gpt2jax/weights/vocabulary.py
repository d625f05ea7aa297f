"""GPT-2's vocabulary in the files that others keep it in.

OpenAI's ``encoder.json`` and ``vocab.bpe``, which Hugging Face calls ``vocab.json`` and ``merges.txt``, and the
``tokenizer.json`` of the package tokenizers, are all rebuilt from a ``tiktoken.Encoding``; no copy of them is kept.
"""

import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import tiktoken

from gpt2jax import tokenizer
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import parse_json

# Of OpenAI's encoder.json: a file that has it need not be compared token by token.
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
MERGES_HEAD = "#version: 0.2\n"


def byte_characters() -> dict[int, str]:
    """A printable character for every byte, as encoder.json spells tokens (openai/gpt-2, src/encoder.py).

    Printable bytes of Latin-1 stand for themselves; the others, in order, take the code points from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def encoder(encoding: tiktoken.Encoding) -> dict[str, int]:
    """Token number by spelling, in the order of the numbers."""
    spell = str if encoding.name == "characters" else _spelling()
    tokens: dict[str, int] = {}
    for pair, token in sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1]):
        tokens[pair.decode() if spell is str else spell(pair)] = token
    return tokens | {special: encoding.encode_single_token(special) for special in encoding.special_tokens_set}


def encoder_json(encoding: tiktoken.Encoding) -> str:
    """The text of encoder.json; GPT-2's is OpenAI's file bit for bit."""
    return json.dumps(encoder(encoding))


def merges_text(encoding: tiktoken.Encoding) -> str:
    """The text of vocab.bpe; GPT-2's is OpenAI's file bit for bit."""
    return MERGES_HEAD + "".join(f"{left} {right}\n" for left, right in merges(encoding))


@functools.lru_cache(maxsize=1)  # A model's folder has two files with them.
def merges(encoding: tiktoken.Encoding) -> tuple[tuple[str, str], ...]:
    """The pairs that byte pair encoding merges, in order.

    tiktoken keeps only what a merge makes. Its two parts are what the token falls into when merges of lower rank
    alone are done.
    """
    if encoding.name == "characters":
        return ()
    spell, ranks = _spelling(), encoding._mergeable_ranks
    found = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[at : at + 1] for at in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(left + right, rank) for left, right in itertools.pairwise(parts)]
            at = min(range(len(pairs)), key=pairs.__getitem__)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found.append((spell(parts[0]), spell(parts[1])))
    return tuple(found)


def tokenizer_json(encoding: tiktoken.Encoding) -> str:
    """The text of tokenizer.json, from which ``tokenizers`` builds the same tokenizer."""
    by_bytes = encoding.name != "characters"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [
        {
            "id": encoding.encode_single_token(text),
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": True,
            "special": True,
        }
        for text in sorted(encoding.special_tokens_set)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": encoder(encoding),
        "merges": [" ".join(pair) for pair in merges(encoding)],
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level if by_bytes else None,
        "post_processor": byte_level if by_bytes else None,
        "decoder": byte_level if by_bytes else {"type": "Fuse"},
        "model": model,
    }
    return json.dumps(whole, ensure_ascii=False)


def _spelling() -> Any:
    characters = byte_characters()
    return lambda pair: "".join(characters[byte] for byte in pair)


def read(folder: Path, n_vocab: int) -> tuple[tiktoken.Encoding | None, str | None]:
    """The vocabulary of a folder with any of these files, for a model of ``n_vocab`` tokens.

    Returns:
        The encoding, or None where it is none of ours; and what to tell the user of that.

    Raises:
        GPT2JaxError: a file is damaged.
    """
    for name in ("encoder.json", "vocab.json", "tokenizer.json"):
        path = folder / name
        if path.is_file():
            break
    else:
        return assumed(n_vocab)
    by_bytes = True
    try:
        text = path.read_bytes()
        if n_vocab == tokenizer.gpt2().n_vocab and hashlib.sha256(text).hexdigest() == ENCODER_SHA256:
            return tokenizer.gpt2(), None
        tokens = parse_json(text, str(path))
        if name == "tokenizer.json":
            by_bytes = tokens["pre_tokenizer"] is not None
            tokens = tokens["model"]["vocab"] | {entry["content"]: entry["id"] for entry in tokens["added_tokens"]}
        tokens = {str(token): int(number) for token, number in tokens.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise GPT2JaxError(f"{path}: cannot be read as a vocabulary ({error})") from None
    if len(tokens) != n_vocab:
        return None, f"{path} has {len(tokens):,} tokens and the model {n_vocab:,}: {_NUMBERS_ONLY}"
    if by_bytes:
        known = (tokenizer.gpt2(), tokenizer.byte_level())
        match = next((encoding for encoding in known if encoding.n_vocab == n_vocab), None)
        if match and tokens == encoder(match):
            return match, None
    elif all(len(token) == 1 for token in tokens) and sorted(tokens.values()) == list(range(n_vocab)):
        return tokenizer.characters("".join(sorted(tokens, key=tokens.__getitem__))), None
    return None, f"{path} is not GPT-2's vocabulary: {_NUMBERS_ONLY}"


_NUMBERS_ONLY = "the model takes token numbers, not text"


def assumed(n_vocab: int) -> tuple[tiktoken.Encoding | None, str | None]:
    """What to take for the vocabulary of ``n_vocab`` tokens that came without one, and what to tell of it."""
    if n_vocab == tokenizer.gpt2().n_vocab:
        return tokenizer.gpt2(), "no vocabulary came with it; taken for GPT-2's by the number of tokens"
    return None, f"no vocabulary came with it, and {n_vocab:,} tokens are not GPT-2's: {_NUMBERS_ONLY}"
