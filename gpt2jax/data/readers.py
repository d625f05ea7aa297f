"""A unit of work to its documents: text, JSON lines, CSV, Parquet and rows of the hub; memory does not grow with files.

A long text comes in pieces, cut where no token can lie across.
"""

import codecs
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpt2jax.data import hub
from gpt2jax.data.extras import decompressed, parquet_file, quick_record
from gpt2jax.data.sources import Document, Reading, topics
from gpt2jax.data.units import SAFE_CUT, Unit, line_number
from gpt2jax.errors import GPT2JaxError

# Characters of a text that are handed on at once, about.
PIECE = 2**20
_BLOCK = 2**18
# What some programs put before all else in a UTF-8 file: it is no text.
_BYTE_ORDER_MARK = "\ufeff"


def read_unit(unit: Unit, reading: Reading) -> Iterator[Document]:
    """The documents of a unit, empty ones left out; see :func:`gpt2jax.data.corpora.read_documents`.

    Raises:
        GPT2JaxError: it cannot be read; the message names the byte, the line or the row.
    """
    source = unit.source
    read: dict[str, Callable[[Unit, Reading], Iterator[Document]]] = {
        "text": _text,
        "jsonl": _json_lines,
        "csv": _csv,
        "parquet": _parquet,
        "hub": _hub,
    }
    try:
        if source.form == "pydoc":
            yield from (Document(text, len(text.encode())) for text in topics() if text)
        else:
            yield from (document for document in read[source.form](unit, reading) if document.text)
    except OSError as error:
        raise GPT2JaxError(f"{source.name}: cannot be read ({error.strerror or error})") from None


def _text(unit: Unit, reading: Reading) -> Iterator[Document]:
    """One document in pieces, or one before each separator."""
    rest, mark, searched = "", reading.separator, 0
    continues = not unit.begins
    for text in _decoded(unit, reading):
        sections = (rest + text).split(mark) if mark else [rest + text]
        rest = sections.pop()
        for section in sections:
            whole = section + mark
            yield Document(whole if reading.keep_separator else section, len(whole.encode()), None, continues)
            continues = False
        searched = 0 if sections else searched
        while len(rest) > 2 * PIECE:
            cut = SAFE_CUT.search(rest, max(PIECE, searched), len(rest) - len(mark))
            if cut is None:
                searched = len(rest) - len(mark) - 1
                break
            yield Document(rest[: cut.end()], len(rest[: cut.end()].encode()), None, continues)
            rest, continues, searched = rest[cut.end() :], True, 0
    if rest:
        yield Document(rest, len(rest.encode()), None, continues)


def _json_lines(unit: Unit, reading: Reading) -> Iterator[Document]:
    if unit.source.compression or reading.encoding != "utf-8":
        for number, text in enumerate(_lines(unit, reading), start=1):
            if text.strip():
                where = f"{unit.source.name}: line {number}"
                yield _json_line(text, len(text.encode()), where, reading, quick_record(text))
        return
    path = unit.source.path
    assert path is not None
    # Bytes: text mode would translate line ends, and cut JSON lines at more than b"\n".
    place, stop = unit.start, sys.maxsize if unit.stop is None else unit.stop
    with path.open("rb", _BLOCK) as file:
        file.seek(place)
        while place < stop and (line := file.readline()):
            record = quick_record(line)
            text = "" if record is not None else _decode(line, unit.source.name, place)
            text = text if place else text.removeprefix(_BYTE_ORDER_MARK)
            if record is not None or (text and not text.isspace()):
                try:
                    yield _json_line(text, len(line), "", reading, record)
                except GPT2JaxError as error:  # Only now is it worth counting which line it is.
                    raise GPT2JaxError(f"{unit.source.name}: line {line_number(path, place)}{error}") from None
            place += len(line)


def _json_line(line: str, size: int, where: str, reading: Reading, record: Any = None) -> Document:
    parsed = _parse(line, where) if record is None else record
    text, prompt, origin = _fields(parsed, where, reading)
    if record is None:  # orjson refuses them itself.
        for key in (reading.text_key,) if prompt is None else ("completion", "prompt"):
            _refuse_halves(parsed[key], key, where)
    return Document(text, size, prompt, False, origin)


def _refuse_halves(text: str, key: str, where: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise GPT2JaxError(f"{where}: {key!r}: {half!r} at character {error.start}: not a character") from None


def _csv(unit: Unit, reading: Reading) -> Iterator[Document]:
    name = unit.source.name
    csv.field_size_limit(sys.maxsize)
    # Of the document's own bytes; quoting and other columns are left out of the count.
    reader = csv.DictReader(_lines(unit, reading), strict=True)
    try:
        if reading.text_key not in (reader.fieldnames or ()):
            raise _no_key(f"{name}: line 1", "column", reading.text_key, reader.fieldnames or ())
        for row in reader:
            text = row[reading.text_key]
            if text is None:
                raise GPT2JaxError(f"{name}: line {reader.line_num}: has no column {reading.text_key!r}")
            yield Document(text, len(text.encode()), origin=_origin(row, reading))
    except csv.Error as error:
        raise GPT2JaxError(f"{name}: line {reader.line_num}: not CSV ({error})") from None


def _parquet(unit: Unit, reading: Reading) -> Iterator[Document]:
    name, key = unit.source.name, reading.text_key
    with parquet_file(name) as file:
        columns = file.schema_arrow.names
        if key not in columns:
            raise _no_key(name, "column", key, columns)
        wanted = [key, *(column for column in reading.origin_keys if column in columns)]
        groups = range(file.num_row_groups) if unit.stop is None else range(unit.start, unit.stop)
        number = 0
        for batch in file.iter_batches(batch_size=256, row_groups=list(groups), columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                where = f"{name}: row group {unit.start}, row {number}"
                yield Document(_string(row, key, where), 0, origin=_origin(row, reading))


def _hub(unit: Unit, reading: Reading) -> Iterator[Document]:
    name, key = unit.source.name, reading.text_key
    continues, empty = not unit.begins, True
    for number, row in enumerate(hub.rows(name, unit.start)):
        where = f"{name}: row {number} of file {unit.start}"
        if key not in row:
            raise _no_key(where, "field", key, row)
        text = _string(row, key, where)
        yield Document(text, 0, continues=continues, origin=_origin(row, reading))
        empty = empty and not text
        continues = reading.join_rows and (continues or bool(text))
    if reading.join_rows and empty and not (unit.begins and unit.ends):
        # Where the joined document begins and ends is in its first and its last file.
        raise GPT2JaxError(f"{name}: file {unit.start}: holds no text: should hold some, to have its rows joined")


def _decoded(unit: Unit, reading: Reading) -> Iterator[str]:
    """The text of a unit in blocks."""
    source, path = unit.source, unit.source.path
    assert path is not None
    start, stop = unit.start, unit.stop
    try:
        decoder = codecs.getincrementaldecoder(reading.encoding)()
    except LookupError:
        raise GPT2JaxError(
            f"encoding: {reading.encoding!r}: unknown: should be one of Python's, such as latin-1"
        ) from None
    with path.open("rb") as raw, decompressed(raw, source.compression, source.name) as file:
        if start:
            file.seek(start)
        place, block = start, b"x"
        marked = not start and reading.encoding == "utf-8"  # Whether a byte order mark may still come.
        while block:
            block = file.read(_BLOCK if stop is None else min(_BLOCK, stop - place))
            place += len(block)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:  # Of bytes that end with the block, whatever was kept from before it.
                raise _bad_byte(source.name, place - len(error.object) + error.start, reading.encoding) from None
            if marked and text:
                text, marked = text.removeprefix(_BYTE_ORDER_MARK), False
            yield text


def _lines(unit: Unit, reading: Reading) -> Iterator[str]:
    """The lines of a unit, with their ends."""
    rest = ""
    for text in _decoded(unit, reading):
        lines = (rest + text).split("\n")
        rest = lines.pop()
        yield from (line + "\n" for line in lines)
    if rest:
        yield rest


def _decode(raw: bytes, name: str, start: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad_byte(name, start + error.start, "utf-8") from None


def _bad_byte(name: str, place: int, encoding: str) -> GPT2JaxError:
    called = encoding.upper()
    return GPT2JaxError(f"{name}: byte {place}: not {called}: should be {called} text (--encoding names another)")


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise GPT2JaxError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None


def _fields(record: Any, where: str, reading: Reading) -> tuple[str, str | None, str]:
    """The text of one JSON line, its prompt if it has one, and where it was taken from."""
    key = reading.text_key
    if not isinstance(record, dict):
        raise GPT2JaxError(f"{where}: {type(record).__name__}: should be an object with a key {key!r}")
    if key not in record and {"prompt", "completion"} <= record.keys():
        return _string(record, "completion", where), _string(record, "prompt", where), ""
    if key not in record:
        raise _no_key(where, "key", key, record)
    return _string(record, key, where), None, _origin(record, reading)


def _no_key(where: str, what: str, key: str, there: Iterable[str]) -> GPT2JaxError:
    keys = ", ".join(map(repr, there)) or "none"
    return GPT2JaxError(f"{where}: no {what} {key!r} ({what}s: {keys}): name the right one with --text-key")


def _origin(record: dict[str, Any], reading: Reading) -> str:
    return " ".join(str(record[key]) for key in reading.origin_keys if record.get(key))


def _string(record: dict[str, Any], key: str, where: str) -> str:
    text = record[key]
    if not isinstance(text, str):
        raise GPT2JaxError(f"{where}: {key!r}: {type(text).__name__}: should be a string")
    return text
