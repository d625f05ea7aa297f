"""A unit of work to tokens: read, clean, encode, write. The same in a process of its own as in the caller's."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np
import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.clean import Cleaning, rensa, shingles
from gpt2jax.data.parts import ROW, ROW_VERSION, SIGNATURE, TRAIN, UNDECIDED, VALIDATION, Parts, Record
from gpt2jax.data.readers import read_unit
from gpt2jax.data.sources import Document, Reading
from gpt2jax.data.units import Unit
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import new_file

# Tokens that are written at once.
_WRITTEN = 2**18


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes the tokens of every unit alike."""

    tokenizer: str
    """The vocabulary's description, as JSON."""
    reading: Reading
    cleaning: Cleaning
    token: str
    """``<u2`` or ``<u4``."""
    mark_first: bool
    """Whether ``<|endoftext|>`` stands before each document, as in llm.c's format, or after it."""
    mark: int | None
    """Its token; None leaves it out."""


class Piece(NamedTuple):
    """A unit, and what is decided of it beforehand."""

    unit: Unit
    digest: str
    """The hash of its source."""
    cut: int | None = None
    """So many of its characters are for training, the others for validation; None where documents are not cut."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is done, and is then done, as one: a unit, or small ones that follow each other."""

    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        return sum(piece.unit.size for piece in self.pieces)

    def key(self, settings: Settings) -> str:
        """A hash of all that shapes what becomes of it."""
        shapes = []
        for unit, digest, cut in self.pieces:
            source = unit.source
            shapes.append([digest, source.kind, source.compression, unit.start, unit.stop, unit.begins, unit.ends, cut])
        own = dataclasses.replace(settings.cleaning, exact_duplicates=False)
        own = dataclasses.replace(own, near_duplicates=1.0 if own.near_duplicates else 0.0)
        given = dataclasses.asdict(dataclasses.replace(settings, cleaning=own))
        return hashlib.sha256(json.dumps([shapes, given, ROW_VERSION]).encode()).hexdigest()[:32]


def grouped(pieces: Iterable[Piece], unit_bytes: int) -> Iterator[Job]:
    """Jobs in order: files that together are no larger than a unit are one, as each costs some files of its own."""
    waiting, size = list[Piece](), 0
    for piece in pieces:
        unit = piece.unit
        # Not ranges of a file, which are large, nor the hub's files, whose size is not known.
        small = unit.stop is None and unit.size <= unit_bytes
        if waiting and not (small and size + unit.size <= unit_bytes):
            yield Job(tuple(waiting))
            waiting, size = [], 0
        if small:
            waiting.append(piece)
            size += unit.size
        else:
            yield Job((piece,))
    if waiting:
        yield Job(tuple(waiting))


def survey(unit: Unit, reading: Reading) -> tuple[int, str]:
    """How many characters a unit holds, and which, in order."""
    count, alphabet = 0, set[str]()
    for document in read_unit(unit, reading):
        count += len(document.text)
        alphabet.update(document.text, document.prompt or "")
    return count, "".join(sorted(alphabet))


def encode(
    job: Job, key: str, settings: Settings, encoding: tiktoken.Encoding, folder: Path, done: Callable[[int], None]
) -> Record:
    """Write the files of a job under ``key``, and say what is in them.

    Args:
        done: called after each document, or piece of one, with the bytes of the source that it took up.

    Raises:
        GPT2JaxError: a unit cannot be read, or some of its documents have prompts and some have none.
    """
    parts = Parts(folder, np.dtype(settings.token))
    with new_file(parts.path(key, "tokens")) as tokens, new_file(parts.path(key, "rows")) as table:
        writer = _Writer(job, settings, encoding)
        with tokens.open("wb") as file:
            for split, document in _documents(job, settings.reading):
                writer.add(split, document)
                if writer.waiting > _WRITTEN:
                    file.write(writer.taken())
                done(document.source_bytes)
            writer.end()
            file.write(writer.taken())
        rows = writer.rows()
        table.write_bytes(rows.tobytes())
    signatures = 0
    if settings.cleaning.near_duplicates:
        with new_file(parts.path(key, "signatures")) as path:
            signatures = path.write_bytes(msgpack.packb(writer.signatures))
    sha256, prompts = parts.hash(key, signatures), writer.prompts is True
    record = Record(key, writer.count, len(rows), sha256, signatures, prompts, writer.dropped, writer.read)
    parts.write(record)
    return record


def _documents(job: Job, reading: Reading) -> Iterator[tuple[int, Document]]:
    for piece in job.pieces:
        yield from _parts(read_unit(piece.unit, reading), piece.cut)


def _parts(documents: Iterator[Document], cut: int | None) -> Iterator[tuple[int, Document]]:
    """Documents with the split that each is of; the one in which ``cut`` characters end becomes two."""
    if cut is None:
        yield from ((UNDECIDED, document) for document in documents)
        return
    begun = cut == 0  # Else the first of them for validation goes on with nothing.
    for document in documents:
        head, tail = document.text[:cut], document.text[cut:]
        cut -= len(head)
        if head:
            yield TRAIN, document._replace(text=head, source_bytes=0 if tail else document.source_bytes)
        if tail:
            yield VALIDATION, document._replace(text=tail, continues=document.continues and begun)
            begun = True


class _Writer:
    """Documents to tokens and rows. Little is done for each document: of short ones there are many."""

    def __init__(self, job: Job, settings: Settings, encoding: tiktoken.Encoding) -> None:
        self.count, self.read, self.dropped, self.signatures = 0, 0, dict[str, int](), list[bytes]()
        self.waiting = 0
        """Tokens that are not yet taken."""
        self.prompts: bool | None = None
        self._ends, self._settings, self._encoding = job.pieces[-1].unit.ends, settings, encoding
        self._mark = np.array([] if settings.mark is None else [settings.mark], np.uint32)
        self._tokens, self._rows, self._digests = list[np.ndarray](), list[tuple[int, ...]](), list[bytes]()
        # Of the document that may go on.
        self._open = self._dropping = self._continues = False
        self._split = self._prompt = self._bytes = 0
        # Many processors have instructions for it: BLAKE2 took twice as long.
        self._hash, self._sketch = hashlib.sha256(), None

    def add(self, split: int, document: Document) -> None:
        """A document or a piece of one; it ends the one before it unless it goes on with it."""
        if not (document.continues and (self._open or self._dropping)):
            self._close()
            self._dropping = self._refuses(document)
            if not self._dropping:
                self._begin(split, document)
        if self._dropping:
            return
        self._put(tokenizers.encode_corpus(self._encoding, document.text))
        raw = document.text.encode()
        self._bytes += len(raw)
        self._hash.update(raw)
        if self._sketch is not None:
            self._sketch.update(list(shingles(document.text)))

    def end(self) -> None:
        """After the last document."""
        self._close(self._ends)

    def taken(self) -> bytes:
        """The tokens that wait, as they stand in the file."""
        tokens_T = np.concatenate([self._mark[:0], *self._tokens]).astype(self._settings.token)
        self._tokens, self.waiting = [], 0
        return tokens_T.tobytes()

    def rows(self) -> np.ndarray:
        rows = np.zeros(len(self._rows), ROW)
        for name, column in zip(ROW.names or (), zip(*self._rows, strict=True), strict=False):
            rows[name] = column
        rows["digest"] = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 16)
        return rows

    def _refuses(self, document: Document) -> bool:
        if document.continues:
            return False
        self.read += 1
        reason = self._settings.cleaning.refuses(document)
        if reason is not None:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
        return reason is not None

    def _begin(self, split: int, document: Document) -> None:
        if self.prompts not in (None, document.prompt is not None):
            raise mixed_prompts()
        self.prompts = document.prompt is not None
        self._open, self._continues, self._split = True, document.continues, split
        self._prompt, self._bytes, self._hash = 0, 0, hashlib.sha256()
        if self._settings.cleaning.near_duplicates:
            self._sketch = rensa().RMinHash(num_perm=SIGNATURE, seed=0)
        if document.prompt is not None:
            self._hash.update(document.prompt.encode() + b"\0")
            # Apart, as a prompt is when text is generated from it; an empty one is <|endoftext|> there.
            prompt_T = tokenizers.encode_corpus(self._encoding, document.prompt) if document.prompt else self._mark
            self._prompt = prompt_T.size
            self._put(prompt_T)
        elif self._settings.mark_first and not document.continues:
            self._put(self._mark)

    def _close(self, ends: bool = True) -> None:
        if not self._open:
            return
        if ends and not self._settings.mark_first:
            self._put(self._mark)
        self._rows.append((self.count, self._bytes, self._prompt, self._continues, self._split))
        self._digests.append(self._hash.digest()[:16])
        if self._sketch is not None:
            self.signatures.append(self._sketch.__getstate__())
        self._open = False

    def _put(self, tokens_T: np.ndarray) -> None:
        self._tokens.append(tokens_T)
        self.count += tokens_T.size
        self.waiting += tokens_T.size


def mixed_prompts() -> GPT2JaxError:
    return GPT2JaxError("sources: should have a prompt in every document or in none of them")
