"""CrowS-Pairs: two sentences that differ in the group they speak of, one of them more stereotypical."""

import csv
import dataclasses
import io

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.readers.text import decode, fail

COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
DIRECTIONS = ("stereo", "antistereo")


@dataclasses.dataclass(frozen=True)
class CrowsPair:
    line: int
    """Where its row ends in the file, from 1."""
    more: str
    """The sentence that is more stereotypical."""
    less: str
    direction: str
    """``stereo``: ``more`` shows a stereotype of a disadvantaged group; ``antistereo``: ``less`` contradicts one."""
    bias_type: str
    """``gender``, ``race-color``, ..."""


def read_crows_pairs(data: bytes, where: str) -> list[CrowsPair]:
    """The rows of ``crows_pairs_anonymized.csv``.

    Raises:
        GPT2JaxError: empty, not UTF-8, other columns, no rows, or a row that lacks a sentence.
    """
    reader = csv.DictReader(io.StringIO(decode(data, where), newline=""), strict=True)
    pairs = []
    try:
        absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            fail(where, 1, f"no column {', '.join(absent)}: should have {', '.join(COLUMNS)}")
        for row in reader:
            number = reader.line_num
            empty = [name for name in COLUMNS if not (row[name] or "").strip()]
            if empty:
                fail(where, number, f"{', '.join(empty)}: empty")
            more, less, direction, bias_type = (row[name] for name in COLUMNS)
            if direction not in DIRECTIONS:
                fail(where, number, f"stereo_antistereo: {direction!r}: should be {' or '.join(DIRECTIONS)}")
            pairs.append(CrowsPair(number, more, less, direction, bias_type))
    except csv.Error as error:
        fail(where, reader.line_num, f"not CSV ({error})")
    if not pairs:
        raise GPT2JaxError(f"{where}: no rows below its head")
    return pairs
