"""Where text comes from: files in many forms, folders of them, patterns, standard input, data sets of the Hugging Face
hub, and a corpus that every Python carries. How they are read: :mod:`gpt2jax.data.readers`."""

import dataclasses
import glob
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from gpt2jax.data import hub
from gpt2jax.errors import GPT2JaxError, nearest

# The source that needs no file: the language reference inside the running Python (about half a megabyte).
PYDOC = "pydoc"
# Standard input.
STDIN = "-"

Form = Literal["text", "jsonl", "csv", "parquet", "hub", "pydoc"]
InputFormat = Literal["auto", "text", "jsonl", "csv", "parquet"]
# What a folder is searched for. A file named by itself may have any name; all other ones are plain text.
SUFFIXES = (".jsonl", ".md", ".txt", ".csv", ".parquet")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


class Document(NamedTuple):
    """A text, and how many bytes of its source it took up (for a progress bar: a JSON line is longer than its text)."""

    text: str
    source_bytes: int
    prompt: str | None = None
    """What stands before the text and is read but not learned; None where the whole document is text."""
    continues: bool = False
    """Whether it goes on with the document before it: a long text comes in pieces."""
    origin: str = ""
    """Where it was taken from, by the fields of :attr:`Reading.origin_keys`."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of a corpus, or (without a path) the embedded one or a data set of the hub. ``size`` is in bytes."""

    name: str
    path: Path | None
    size: int
    form: Form = "text"
    compression: str | None = None
    """``gzip`` or ``zstd``."""

    @property
    def json_lines(self) -> bool:
        return self.form == "jsonl"

    @property
    def kind(self) -> bool | str:
        """Of what is hashed for a fingerprint; plain text and JSON lines are as they were before there were others."""
        return self.json_lines if self.form in ("text", "jsonl", "pydoc") else self.form


@dataclasses.dataclass(frozen=True)
class Reading:
    """How sources are read."""

    text_key: str = "text"
    """The key, column or field of the text."""
    encoding: str = "utf-8"
    separator: str = ""
    """What ends a document inside a text file; empty: a text file is one document."""
    keep_separator: bool = False
    """Whether it stays at the end of each document but the last."""
    join_rows: bool = False
    """Whether the rows of a data set of the hub are pieces of one document."""
    origin_keys: tuple[str, ...] = ("url", "source")
    """Fields that say where a document was taken from."""


def find_sources(names: Sequence[str], input_format: InputFormat = "auto") -> list[Source]:
    """The files behind ``names``, in order: each a file, a folder or a pattern (their files, sorted by path),
    ``hf:OWNER/NAME`` (:mod:`gpt2jax.data.hub`) or ``pydoc``. Standard input is a file by then.

    The sizes add up to what :func:`gpt2jax.data.corpora.read_documents` will go through, known before a byte is read.

    Args:
        input_format: the form of all files; ``auto`` goes by their names.

    Raises:
        GPT2JaxError: nothing named, no such file or folder, or a folder without files of these forms.
    """
    if not names:
        raise GPT2JaxError(f"sources: none given: name files, folders or {PYDOC!r}")
    return [source for name in names for source in _find(name, input_format)]


def form_of(name: str) -> tuple[Form | None, str | None]:
    """The form that a file's name tells, None where it is none of :data:`SUFFIXES`, and its compression."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = COMPRESSED.get(suffixes.pop()) if suffixes and suffixes[-1] in COMPRESSED else None
    last = suffixes[-1] if suffixes else ""
    forms: dict[str, Form] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".md": "text", ".txt": "text"}
    return forms.get(last), compression


def holds_text(folder: Path) -> bool:
    """Whether a search of ``folder`` finds something."""
    return any(form_of(file.name)[0] for file in folder.rglob("*"))


def _find(name: str, input_format: InputFormat) -> list[Source]:
    if name == PYDOC:
        return [Source(PYDOC, None, sum(len(text.encode()) for text in topics()), "pydoc")]
    if name.startswith(hub.PREFIX):
        return [Source(name, None, 0, "hub")]
    path = Path(name)
    if path.is_dir():
        found = [file for file in path.rglob("*") if form_of(file.name)[0] and file.is_file()]
        if not found:
            raise GPT2JaxError(f"{name}: no text in this folder: should hold {', '.join(SUFFIXES)} files")
        # By its parts, so that the order is the same wherever a path separator sorts.
        found.sort(key=lambda file: file.relative_to(path).parts)
    elif path.is_file():
        found = [path]
    elif set("*?[") & set(name):
        found = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
        found.sort(key=lambda file: file.parts)
        if not found:
            raise GPT2JaxError(f"{name}: no file is of this pattern")
    else:
        raise GPT2JaxError(f"{name}: no such file or folder (for the corpus that comes with Python, write {PYDOC!r})")
    return [_source(file, input_format) for file in found]


def _source(file: Path, input_format: InputFormat) -> Source:
    form, compression = form_of(file.name)
    if input_format != "auto":
        if input_format not in get_args(InputFormat):
            raise GPT2JaxError(f"input format: {input_format!r}: unknown ({nearest(input_format, get_args(Form))})")
        form = input_format
    if form == "parquet" and compression:
        raise GPT2JaxError(f"{file}: {compression} around Parquet: should be Parquet, which compresses by itself")
    return Source(str(file), file, file.stat().st_size, form or "text", compression)


def topics() -> list[str]:
    """The texts of Python's language reference, in the order of their names."""
    try:
        from pydoc_data.topics import topics  # Half a megabyte to import: only when asked for.
    except ImportError:
        raise GPT2JaxError(f"{PYDOC}: this Python was installed without pydoc_data: name a text file instead") from None
    return [topics[name] for name in sorted(topics)]


def digest(source: Source) -> str:
    """sha256 (hex) of what the source holds; of a data set of the hub, of its name and revision."""
    if source.form == "hub":
        return hashlib.sha256(source.name.encode()).hexdigest()
    if source.path is None:
        return hashlib.sha256(json.dumps(topics()).encode()).hexdigest()
    try:
        with source.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GPT2JaxError(f"{source.name}: cannot be read ({error.strerror})") from None


def no_text(sources: Sequence[Source]) -> GPT2JaxError:
    names = [source.name for source in sources]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return GPT2JaxError(f"sources: {', '.join(names[:3])}{more}: hold no text")
