"""Units of work: pieces of a corpus that can be read each by itself, in any process, and together are the corpus.

Where a unit ends depends on the corpus and the size asked for alone, not on how many processes there are.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from gpt2jax.data import hub
from gpt2jax.data.extras import parquet_file
from gpt2jax.data.sources import Reading, Source
from gpt2jax.errors import GPT2JaxError

# Bytes of a source in a unit, about.
UNIT_BYTES = 2**24
_BLOCK = 2**20

# A place before which nothing that stands after it changes a token: between something and the space or line end after
# it. No vocabulary here looks further back; Python's \s holds all that GPT-2's pattern takes for white space.
SAFE_CUT = re.compile(r"\S(?=[ \n])")
_SAFE_BYTES = re.compile(rb"(?<=[!-~\x80-\xbf])[ \n]")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of a source: bytes (of text and JSON lines), row groups (Parquet) or files (hub) from ``start`` to
    ``stop``; all of it where ``stop`` is None."""

    source: Source
    start: int = 0
    stop: int | None = None
    size: int = 0
    """Bytes that it counts for."""
    begins: bool = True
    """Whether its first document goes on with nothing."""
    ends: bool = True
    """Whether nothing goes on with its last one."""


def whole(source: Source) -> Unit:
    return Unit(source, size=source.size)


def plan(sources: Sequence[Source], reading: Reading, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """The units of a corpus, in its order.

    Raises:
        GPT2JaxError: a file that is to be cut, or a data set of the hub, cannot be opened.
    """
    return [unit for source in sources for unit in _units(source, reading, unit_bytes)]


def _units(source: Source, reading: Reading, unit_bytes: int) -> list[Unit]:
    if source.form == "hub":
        count = hub.shards(source.name)
        one = reading.join_rows
        return [
            Unit(source, shard, shard + 1, 0, not one or shard == 0, not one or shard == count - 1)
            for shard in range(count)
        ]
    if source.form == "parquet":
        with parquet_file(source.name) as file:
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        return [Unit(source, group, group + 1, size) for group, size in enumerate(sizes)] or [whole(source)]
    if not _can_be_cut(source, reading) or source.size <= unit_bytes:
        return [whole(source)]
    edges = _edges(source, reading, math.ceil(source.size / unit_bytes))
    one = source.form == "text" and not reading.separator
    return [
        Unit(source, start, stop, stop - start, not one or start == 0, not one or stop == source.size)
        for start, stop in itertools.pairwise(edges)
    ]


def _can_be_cut(source: Source, reading: Reading) -> bool:
    if source.path is None or source.compression or reading.encoding != "utf-8":
        return False
    if source.form == "text" and reading.separator:
        # One whose end is its beginning could be found at two places that overlap. Where it is one character again and
        # again, as an empty line is, it is certain after another character.
        mark = reading.separator
        return _repeats(mark) or not any(mark.startswith(mark[at:]) for at in range(1, len(mark)))
    return source.form in ("text", "jsonl")


def _repeats(mark: str) -> bool:
    return len(mark) > 1 and mark.isascii() and len(set(mark)) == 1


def _edges(source: Source, reading: Reading, count: int) -> list[int]:
    """The bytes at which a file is cut into at most ``count`` units, its beginning and its end among them.

    Each is another one, so that no unit is empty: the last one must hold the end of the text.
    """
    path, edges = source.path, [0]
    assert path is not None
    try:
        with path.open("rb") as file:
            for number in range(1, count + 1):
                place = source.size * number // count
                if place > edges[-1]:  # Else it was looked for already.
                    edges.append(_boundary(file, place, source, reading))
    except OSError as error:
        raise GPT2JaxError(f"{source.name}: cannot be read ({error.strerror})") from None
    return edges


def _boundary(file: BinaryIO, place: int, source: Source, reading: Reading) -> int:
    """The first place from ``place`` on where the file may be cut; its end where there is none."""
    if place in (0, source.size):
        return place
    mark = b"\n" if source.form == "jsonl" else reading.separator.encode()
    if mark:
        # After a mark: one that ends at ``place`` will do.
        pattern, width = re.escape(mark), len(mark)
        if source.form == "text" and _repeats(reading.separator):
            pattern, width = b"[^" + re.escape(mark[:1]) + b"]" + pattern, width + 1
        at = _search(file, max(place - width, 0), re.compile(pattern), width)
        return source.size if at is None else at + width
    at = place - 1
    while True:
        found = _search(file, at, _SAFE_BYTES, 2)
        if found is None:
            return source.size
        if not _before(file, found).isspace():
            return found
        at = found


def _search(file: BinaryIO, start: int, pattern: re.Pattern[bytes], width: int) -> int | None:
    """Where ``pattern``, which looks at ``width`` bytes, is found from ``start`` on; a block at a time."""
    file.seek(start)
    kept = b""
    while block := file.read(_BLOCK):
        text = kept + block
        if match := pattern.search(text):
            return start + match.start()
        keep = len(text) - min(len(text), width - 1)
        start, kept = start + keep, text[keep:]
    return None


def _before(file: BinaryIO, place: int) -> str:
    """The character that ends before ``place``; a space, which is no place to cut after, where the bytes are none."""
    start = max(place - 4, 0)
    file.seek(start)
    raw = file.read(place - start)
    return (raw.decode("utf-8", "ignore") or " ")[-1]


def line_number(path: Path, place: int) -> int:
    """The line, from 1, in which a byte of a file stands: for an error."""
    with path.open("rb") as file:
        lines, left = 1, place
        while left and (block := file.read(min(_BLOCK, left))):
            lines, left = lines + block.count(b"\n"), left - len(block)
    return lines
