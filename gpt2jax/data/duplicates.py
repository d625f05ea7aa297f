"""Which documents are, all or almost, one that stands before them in the corpus."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import tiktoken

from gpt2jax.data.clean import DUPLICATE, NEAR, Cleaning, rensa
from gpt2jax.data.parts import SIGNATURE, Parts, Record

# Tokens that are made text at once.
_BLOCK = 2**20


def repeated(
    parts: Parts,
    records: Sequence[Record],
    cleaning: Cleaning,
    encoding: tiktoken.Encoding,
    dropped: dict[str, int],
) -> np.ndarray | None:
    """Of all rows of the units, which are left out as duplicates (bool), their count by reason into ``dropped``; None
    where none are looked for."""
    if not (cleaning.exact_duplicates or cleaning.near_duplicates):
        return None
    tables = [parts.rows(record) for record in records]
    first = np.concatenate([rows_N["continues"] == 0 for rows_N in tables])
    found = np.zeros(len(first), bool)
    if cleaning.exact_duplicates:
        hashes = [digests(parts, records, at, rows_N, encoding) for at, rows_N in enumerate(tables)]
        # A piece is no document: rows that go on are hashes of their own.
        found[first] = exact(np.concatenate(hashes)[first])
        dropped[DUPLICATE] = int(found.sum())
    if cleaning.near_duplicates:
        also = near(parts, records, cleaning.near_duplicates) & first & ~found
        dropped[NEAR] = int(also.sum())
        found |= also
    return found


def digests(
    parts: Parts, records: Sequence[Record], at: int, rows_N: np.ndarray, encoding: tiktoken.Encoding
) -> np.ndarray:
    """The hashes of the documents that begin in a unit [N, 16]; of one that goes on in other units, the one that its
    text would have in a single unit, so that it is all one where a text was cut."""
    found = rows_N["digest"].copy()
    if not len(rows_N) or rows_N["continues"][-1]:
        return found
    rest = list[np.ndarray]()
    for record in records[at + 1 :]:
        rows = parts.rows(record)
        if not len(rows):
            continue
        if not rows["continues"][0]:
            break
        rest.append(parts.tokens(record)[: int(rows["end"][0])])
        if len(rows) > 1:
            break
    if rest:
        start = int(rows_N["end"][-2]) if len(rows_N) > 1 else 0
        whole = hashlib.sha256()
        for tokens_T in (parts.tokens(records[at])[start:], *rest):
            for raw in _text(tokens_T, encoding):
                whole.update(raw)
        found[-1] = np.frombuffer(whole.digest()[:16], np.uint8)
    return found


def _text(tokens_T: np.ndarray, encoding: tiktoken.Encoding) -> Iterator[bytes]:
    special = list(encoding._special_tokens.values())
    for start in range(0, len(tokens_T), _BLOCK):
        block = np.asarray(tokens_T[start : start + _BLOCK])
        yield encoding.decode_bytes(block[~np.isin(block, special)].tolist())


def exact(digests: np.ndarray) -> np.ndarray:
    """Of documents with these hashes [N, 16], which have the hash of one before them (bool).

    Takes 40 bytes of memory a document.
    """
    first, second = np.ascontiguousarray(digests).view("<u8").T
    order = np.lexsort((np.arange(len(digests)), second, first))
    same = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
    found = np.zeros(len(digests), bool)
    found[order[1:][same]] = True
    return found


def near(parts: Parts, records: Sequence[Record], threshold: float) -> np.ndarray:
    """Of all rows of the units, which share at least about ``threshold`` of their runs of words with one before them
    that stays (bool).

    By rensa's MinHash of 128 numbers and its index, which is in memory: about a kilobyte a document.
    """
    package, found = rensa(), list[bool]()
    index = package.RMinHashDeduplicator(threshold, SIGNATURE, True, seed=0)
    for record in records:
        for state in parts.signatures(record):
            sketch = package.RMinHash(SIGNATURE, 0)
            sketch.__setstate__(state)
            found.append(not index.add(str(len(found)), sketch))
    return np.array(found, bool)
