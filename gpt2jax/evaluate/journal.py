"""Results of an evaluation on disk, so that one that was stopped goes on where it was.

They lie in pieces, ``START-STOP.npz``, of some seconds' work each: the log-probabilities and what was greedy of the
rows START to STOP, and a key, which is a digest of who has scored and of the rows themselves. A piece whose key is
another, or that cannot be read, is not believed.
"""

import hashlib
import re
import sys
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt2jax.distributed import is_primary
from gpt2jax.evaluate.rows import Row, Scored
from gpt2jax.files import new_file, remove_folder, remove_partial

Results = Generator[tuple[Row, Scored]]

_PIECE = re.compile(r"(\d+)-(\d+)\.npz")


class Journal:
    """Of one stream of rows. Of several processes the first alone writes and reads, and tells the others."""

    def __init__(self, folder: Path, seconds: float = 30.0) -> None:
        """
        Args:
            folder: of the pieces; made when the first is written. No other journal may use it.
            seconds: of work in a piece.
        """
        self.folder, self.seconds = folder, seconds
        self.restored = 0
        """Rows whose results were there."""

    def through(self, rows: Iterable[Row], compute: Callable[[Iterable[Row]], Results], fingerprint: str) -> Results:
        """Each of ``rows`` with its result, in order: from a piece where there is one, else by ``compute``, whose
        results become pieces.

        Args:
            fingerprint: of what computes.

        Raises:
            GPT2JaxError: a piece cannot be written.
        """
        rows, at = iter(rows), 0
        if is_primary():
            remove_partial(self.folder)
        for start, stop in self._pieces():
            if start < at:  # Of another stream, whose pieces ended elsewhere.
                self._remove(start, stop)
                continue
            yield from self._write(islice(rows, start - at), at, compute, fingerprint)
            some = list(islice(rows, stop - start))
            scored = self._read(start, stop, some, fingerprint)
            if scored is None:
                self._remove(start, stop)
                yield from self._write(iter(some), start, compute, fingerprint)
            else:
                self.restored += len(some)
                yield from zip(some, scored, strict=True)
            at = stop
        yield from self._write(rows, at, compute, fingerprint)

    def clear(self) -> None:
        """Remove the pieces: whoever has all results keeps them elsewhere."""
        if is_primary():
            remove_folder(self.folder)

    def _pieces(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        if is_primary() and self.folder.is_dir():
            names = [_PIECE.fullmatch(path.name) for path in self.folder.iterdir()]
            found = sorted((int(name[1]), int(name[2])) for name in names if name)
        count = int(_from_primary(np.array(len(found), np.int32)))
        pieces = _from_primary(np.array(found, np.int32).reshape(-1, 2) if found else np.zeros((count, 2), np.int32))
        return [(int(start), int(stop)) for start, stop in pieces]

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:09d}-{stop:09d}.npz"

    def _remove(self, start: int, stop: int) -> None:
        if is_primary():
            self._path(start, stop).unlink(missing_ok=True)

    def _write(
        self, rows: Iterator[Row], start: int, compute: Callable[[Iterable[Row]], Results], fingerprint: str
    ) -> Results:
        done: list[tuple[Row, Scored]] = []
        last = time.monotonic()
        try:
            for row, scored in compute(rows):
                done.append((row, scored))
                if time.monotonic() - last >= self.seconds:
                    self._save(start, done, fingerprint)
                    start, done, last = start + len(done), [], time.monotonic()
                yield row, scored
        finally:  # When it is interrupted, too.
            if done:
                self._save(start, done, fingerprint)

    def _save(self, start: int, done: list[tuple[Row, Scored]], fingerprint: str) -> None:
        if not is_primary():
            return
        arrays = {name: np.concatenate([getattr(one, name) for _, one in done]) for name in vars(done[0][1])}
        key = np.frombuffer(_key([row for row, _ in done], fingerprint), np.uint8)
        with new_file(self._path(start, start + len(done))) as partial, partial.open("wb") as file:
            np.savez(file, **({"key": key} | arrays))  # A zip file: it has checksums.

    def _read(self, start: int, stop: int, rows: list[Row], fingerprint: str) -> list[Scored] | None:
        """What the piece says of ``rows``, or None, with a line that says why."""
        ends = np.cumsum([len(row.tokens) - row.first for row in rows], dtype=np.int64)
        total = int(ends[-1]) if rows else 0
        arrays = [np.zeros(total, np.float32), np.zeros(total, bool), np.zeros(total, bool)]
        good = False
        if is_primary():
            path = self._path(start, stop)
            try:
                with path.open("rb") as file, np.load(file) as piece:
                    good = piece["key"].tobytes() == _key(rows, fingerprint)
                    if good:
                        arrays = [piece[name] for name in ("log_probs", "greedy", "argmax")]
                    else:
                        _say(f"{path}: is of another model, other settings or other rows: they are scored again")
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                good = False
                _say(f"{path}: cannot be read ({error}): its rows are scored again")
        if not bool(_from_primary(np.array(good))):
            return None
        log_probs, greedy, argmax = (np.split(_from_primary(array), ends[:-1]) for array in arrays)
        return [Scored(*one) for one in zip(log_probs, greedy, argmax, strict=True)]


def _key(rows: list[Row], fingerprint: str) -> bytes:
    found = hashlib.sha256(fingerprint.encode())
    for row in rows:
        found.update(np.array([len(row.tokens), row.first], "<i8").tobytes())
        found.update(row.tokens.astype("<i4").tobytes())
    return found.digest()


def _from_primary(array: np.ndarray) -> np.ndarray:
    """The first process's ``array`` in all of them, where it has the same shape."""
    return array if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(array))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
