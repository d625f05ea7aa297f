"""Which documents are, all or almost, one that stands before them in the corpus."""

from collections.abc import Sequence

import numpy as np

from gpt2jax.data.clean import rensa
from gpt2jax.data.parts import SIGNATURE, Parts, Record


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
