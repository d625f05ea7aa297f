"""What becomes of a unit of work: a file of tokens, a table of its documents, and a record that both are whole.

They lie in one folder under a key that is a hash of all that shapes them. So what is there is right, whoever wrote it
and when, and a unit is done once its record is there.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import make_folder, remove_folder, write_text

try:
    import fcntl
except ImportError:  # On Windows.
    fcntl = None  # type: ignore[assignment]

# A row for each document: tokens up to its end, its UTF-8 bytes, tokens of its prompt, whether it goes on with the
# document before it, the split that it is of (0: not said), the first 16 bytes of its sha256.
ROW = np.dtype([
    ("end", "<u8"), ("bytes", "<u8"), ("prompt", "<u4"), ("continues", "u1"), ("split", "u1"), ("digest", "u1", (16,)),
])  # fmt: skip
# Of what a row means: parts that another version left unfinished are made anew, not joined with these.
ROW_VERSION = 2
UNDECIDED, TRAIN, VALIDATION = 0, 1, 2
# Numbers of a signature by which near duplicates are found.
SIGNATURE = 128


@dataclasses.dataclass(frozen=True)
class Record:
    """What is in the files of a unit."""

    key: str
    tokens: int
    rows: int
    sha256: str
    """Of the tokens, then the table, then the signatures."""
    signatures: int
    """Bytes of what near duplicates are found by; 0 where they were not asked for."""
    prompts: bool
    """Whether its documents have prompts."""
    dropped: dict[str, int]
    """Documents left out, by reason."""
    read: int
    """Documents that were read, left out ones included."""


class Parts:
    """A folder of units that are done."""

    def __init__(self, folder: Path, token: np.dtype[np.generic]) -> None:
        self.folder, self.token = folder, token

    def path(self, key: str, ending: str) -> Path:
        return self.folder / f"{key}.{ending}"

    def record(self, key: str) -> Record | None:
        """The record of a unit, None where it is not done; files of other sizes than it says are not."""
        try:
            record = Record(**json.loads(self.path(key, "json").read_bytes()))
            sizes = [self.path(key, ending).stat().st_size for ending in _endings(record.signatures)]
        except (OSError, ValueError, TypeError):
            return None
        wanted = [record.tokens * self.token.itemsize, record.rows * ROW.itemsize, record.signatures]
        return record if sizes == wanted[: len(sizes)] else None

    def write(self, record: Record) -> None:
        """Say that a unit's files are whole: they are there before it. A machine that loses its power may yet lose
        what they hold: :meth:`check` sees that."""
        write_text(self.path(record.key, "json"), json.dumps(dataclasses.asdict(record)))

    def rows(self, record: Record) -> np.ndarray:
        """The table of a unit's documents."""
        return np.fromfile(self.path(record.key, "rows"), ROW)

    def tokens(self, record: Record) -> np.ndarray:
        """Its tokens, read from disk as they are touched."""
        if not record.tokens:
            return np.zeros(0, self.token)
        return np.memmap(self.path(record.key, "tokens"), self.token, mode="r")

    def signatures(self, record: Record) -> list[bytes]:
        """Of each document, what near duplicates are found by: where they were asked for."""
        return msgpack.unpackb(self.path(record.key, "signatures").read_bytes())

    def check(self, records: Sequence[Record]) -> None:
        """Refuse files that are not as they were written.

        Raises:
            GPT2JaxError: the hashes of some are others; their records are removed, so that these units are done again.
        """
        damaged = [record for record in records if self.hash(record.key, record.signatures) != record.sha256]
        for record in damaged:
            self.path(record.key, "json").unlink()
        if damaged:
            path = self.path(damaged[0].key, "tokens")
            raise GPT2JaxError(f"{path}: damaged on disk, of {len(damaged):,} parts: start again to make them anew")

    def hash(self, key: str, signatures: int) -> str:
        """sha256 (hex) of the tokens of a unit, then its table, then its signatures where they have bytes."""
        found = hashlib.sha256()
        for ending in _endings(signatures):
            with self.path(key, ending).open("rb") as file:
                while block := file.read(2**20):
                    found.update(block)
        return found.hexdigest()


def _endings(signatures: int) -> list[str]:
    return ["tokens", "rows", "signatures"] if signatures else ["tokens", "rows"]


@contextlib.contextmanager
def locked(folder: Path, share: str | None = None) -> Iterator[None]:
    """Be the only process that works in ``folder``, or at this ``share`` of it: others may work at other shares.

    The system frees the lock of a process that is gone, killed or not. Where there are no locks, none is taken: two at
    once would do the same work twice, and write the same files.

    Raises:
        GPT2JaxError: another one does.
    """
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        names = ["all"] if share is None else ["all", share]
        for name in names:
            lock = stack.enter_context((folder / f"{name}.lock").open("ab"))
            try:
                if fcntl is not None:
                    how = fcntl.LOCK_EX if name == names[-1] else fcntl.LOCK_SH
                    fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GPT2JaxError(f"{folder}: another process prepares it now: wait for it") from None
            except OSError:  # A file system without locks.
                pass
        yield


@contextlib.contextmanager
def placed(folder: Path, out: Path) -> Iterator[Path]:
    """A new folder inside ``folder`` that becomes ``out`` at the end; what a killed process left of one is removed.

    Raises:
        GPT2JaxError: it cannot be written.
    """
    made = folder / "joined"
    remove_folder(made)
    try:
        made.mkdir()
        yield made
        if out.exists():
            out.rmdir()  # It is empty; not every system renames over a folder.
        made.rename(out)
    except OSError as error:
        raise GPT2JaxError(f"{out}: cannot be written ({error.strerror or error})") from None
