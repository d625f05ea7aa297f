"""Which documents are held out for validation."""

import hashlib
from typing import Literal, get_args

import numpy as np

from gpt2jax.errors import GPT2JaxError

SplitRule = Literal["documents", "tail", "hash", "first"]
# As it is recorded: with sources of their own for validation there is no rule.
SplitUsed = Literal["documents", "tail", "hash", "first", "given"]


def check(rule: str, fraction: float, seed: int, validation_tokens: int, given: bool) -> None:
    """Refuse settings that cannot be.

    Raises:
        GPT2JaxError: naming the setting.
    """
    if rule not in get_args(SplitRule):
        raise GPT2JaxError(f"split: {rule!r}: should be {', '.join(get_args(SplitRule))}")
    if not 0 <= fraction <= 0.5:
        raise GPT2JaxError(f"validation fraction: {fraction}: should be at least 0 and at most 0.5")
    if seed < 0:
        raise GPT2JaxError(f"seed: {seed}: should be at least 0")
    if (rule == "first") != (validation_tokens > 0) and not given:
        raise GPT2JaxError(
            f"validation tokens: {validation_tokens}: should be above 0 with --split first, and 0 without it"
        )


def one_of_every_block(start: int, count: int, fraction: float, seed: int) -> np.ndarray:
    """Of documents ``start`` to ``start + count``, which are held out (bool): one of every ``round(1 / fraction)``, at
    a place in its block that is drawn. An exact share, which depends on the documents before it."""
    block = round(1 / fraction)
    held = np.zeros(count, bool)
    for number in range(start // block, -(-(start + count) // block)):
        place = number * block + int(np.random.default_rng((seed, number)).integers(block)) - start
        if 0 <= place < count:
            held[place] = True
    return held


def by_hash(digests: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Of documents with these hashes [N, 16], which are held out (bool): each by its own text alone."""
    if seed:  # Another seed is another choice.
        raw = [hashlib.blake2b(row.tobytes() + str(seed).encode(), digest_size=8).digest() for row in digests]
        numbers = np.frombuffer(b"".join(raw), "<u8")
    else:
        numbers = np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
    return numbers < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
