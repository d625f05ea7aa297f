"""Where text comes from: plain files, JSON lines, folders of both, and a corpus that every Python carries."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt2jax.errors import GPT2JaxError

# The source that needs no file: the language reference inside the running Python (about half a megabyte).
PYDOC = "pydoc"

# What a folder is searched for. A file named by itself may have any name; all but .jsonl are plain text.
SUFFIXES = (".jsonl", ".md", ".txt")


class Document(NamedTuple):
    """A text, and how many bytes of its source it took up (for a progress bar: a JSON line is longer than its text)."""

    text: str
    source_bytes: int
    prompt: str | None = None
    """What stands before the text and is read but not learned; None where the whole document is text."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of a corpus, or (without a path) the embedded one. ``size`` is in bytes."""

    name: str
    path: Path | None
    size: int

    @property
    def json_lines(self) -> bool:
        return self.path is not None and self.path.suffix.lower() == ".jsonl"


def find_sources(names: Sequence[str]) -> list[Source]:
    """The files behind ``names``, in order: each a file, a folder (its files, sorted by path) or ``pydoc``.

    The sizes add up to what :func:`read_documents` will go through, known before a byte is read.

    Raises:
        GPT2JaxError: nothing named, no such file or folder, or a folder without .txt, .md and .jsonl files.
    """
    if not names:
        raise GPT2JaxError(f"sources: none given: name files, folders or {PYDOC!r}")
    return [source for name in names for source in _find(name)]


def _find(name: str) -> list[Source]:
    if name == PYDOC:
        return [Source(PYDOC, None, sum(len(text.encode()) for text in _topics()))]
    path = Path(name)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not found:
            raise GPT2JaxError(f"{name}: no text in this folder: should hold {', '.join(SUFFIXES)} files")
        # By its parts, so that the order is the same wherever a path separator sorts.
        found.sort(key=lambda file: file.relative_to(path).parts)
    elif path.is_file():
        found = [path]
    else:
        raise GPT2JaxError(f"{name}: no such file or folder (for the corpus that comes with Python, write {PYDOC!r})")
    return [Source(str(file), file, file.stat().st_size) for file in found]


def _topics() -> list[str]:
    """The texts of Python's language reference, in the order of their names."""
    try:
        from pydoc_data.topics import topics  # Half a megabyte to import: only when asked for.
    except ImportError:
        raise GPT2JaxError(f"{PYDOC}: this Python was installed without pydoc_data: name a text file instead") from None
    return [topics[name] for name in sorted(topics)]


def digest(source: Source) -> str:
    """sha256 (hex) of what the source holds."""
    if source.path is None:
        return hashlib.sha256(json.dumps(_topics()).encode()).hexdigest()
    try:
        with source.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GPT2JaxError(f"{source.name}: cannot be read ({error.strerror})") from None


def read_documents(sources: Sequence[Source], text_key: str = "text") -> Iterator[Document]:
    """The documents of ``sources``, one at a time; empty ones are left out, and line ends stay as they are.

    A plain file is one document. A .jsonl file holds one per line, an object with the text under ``text_key``, or, if
    it has no such key, with ``prompt`` and ``completion``; blank lines are allowed. The embedded corpus has one
    document per topic of the language reference.

    Raises:
        GPT2JaxError: not UTF-8 (naming the byte), not such a line (naming it), or no text in the whole corpus.
    """
    found = False
    for source in sources:
        for document in _read(source, text_key):
            if document.text:
                found = True
                yield document
    if not found:
        raise GPT2JaxError(f"sources: {', '.join(source.name for source in sources)}: hold no text")


def _read(source: Source, text_key: str) -> Iterator[Document]:
    if source.path is None:
        for text in _topics():
            yield Document(text, len(text.encode()))
        return
    try:
        # Bytes throughout: text mode would translate line ends, and cut JSON lines at more than b"\n".
        if source.json_lines:
            with source.path.open("rb") as file:
                start = 0
                for number, line in enumerate(file, start=1):
                    text = _decode(line, source.name, start)
                    if text.strip():
                        document, prompt = _parse(text, f"{source.name}: line {number}", text_key)
                        yield Document(document, len(line), prompt)
                    start += len(line)
        else:
            raw = source.path.read_bytes()
            yield Document(_decode(raw, source.name, 0), len(raw))
    except OSError as error:
        raise GPT2JaxError(f"{source.name}: cannot be read ({error.strerror})") from None


def _decode(raw: bytes, name: str, start: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GPT2JaxError(f"{name}: byte {start + error.start}: not UTF-8: should be UTF-8 text") from None


def _parse(line: str, where: str, text_key: str) -> tuple[str, str | None]:
    """The text of one JSON line, and its prompt if it has one."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise GPT2JaxError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict):
        raise GPT2JaxError(f"{where}: {type(record).__name__}: should be an object with a key {text_key!r}")
    if text_key not in record and {"prompt", "completion"} <= record.keys():
        return _string(record, "completion", where), _string(record, "prompt", where)
    if text_key not in record:
        keys = ", ".join(map(repr, record)) or "none"
        raise GPT2JaxError(f"{where}: no key {text_key!r} (keys: {keys}): name the right one with --text-key")
    return _string(record, text_key, where), None


def _string(record: dict[str, Any], key: str, where: str) -> str:
    text = record[key]
    if not isinstance(text, str):
        raise GPT2JaxError(f"{where}: {key!r}: {type(text).__name__}: should be a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is no character and has no bytes.
        half = text[error.start]
        raise GPT2JaxError(f"{where}: {key!r}: {half!r} at character {error.start}: not a character") from None
    return text
