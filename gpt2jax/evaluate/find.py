"""A data set's file in a folder, whatever release of it the user has."""

import dataclasses
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.catalog import Dataset, Release, dataset
from gpt2jax.evaluate.identity import Verdict, judge
from gpt2jax.evaluate.restore import restore, rows

# How the note begins that says of a file that it is not the published one.
CHANGED = "changed"
# Folders below the data folder that are looked into: an archive's own, and those inside it.
DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set's file, read."""

    dataset: Dataset
    path: Path
    """What lies on disk: the file itself, or the archive or Parquet file that it was read from."""
    member: str | None
    """The path inside an archive."""
    data: bytes = dataclasses.field(repr=False)
    """The whole file, as its publisher made it."""
    sha256: str
    """Of ``data``."""
    verified: bool
    """Whether a hash that is known says that it is the right one."""
    notes: tuple[str, ...] = ()
    """What to say beside every figure made of it."""

    @property
    def where(self) -> str:
        """What heads an error line."""
        return f"{self.path}: {self.member}" if self.member else str(self.path)


@dataclasses.dataclass(frozen=True)
class Missing:
    """No file of a data set is in the folder."""

    dataset: Dataset
    folder: Path
    akin: tuple[tuple[Path, Dataset], ...] = ()
    """Files that are there and are something else, which is easily taken for it."""

    def __str__(self) -> str:
        """What to get, under which names, and where: one line."""
        entry = self.dataset
        line = f"{entry.name}: not in {self.folder}: should be one of {', '.join(entry.file_names)}; {obtain(entry)}"
        for path, other in self.akin:
            line += f"; {path.relative_to(self.folder)} is another text: {other.name} ({other.title})"
        return line


def obtain(entry: Dataset) -> str:
    """How to get a data set, in half a line."""
    release = entry.public
    if release is None:
        return f"not public: {entry.elsewhere}"
    size = f" ({_human(release.size)})" if release.size else ""
    return f"gpt2jax evaluate --download {entry.group or entry.name} gets it{size} from {release.urls[0]}"


def find(name: str, data: Path, *, allow_changed: bool = False) -> Found | Missing:
    """The file of data set ``name`` in the folder ``data`` and up to four levels of folders below it.

    It may be the file itself, or a zip, a tar (gzipped or not) or a Parquet file that holds it; archives are read as
    streams, not unpacked. Of several the first that is right is taken, in the order of the catalog.

    Args:
        allow_changed: take a file with another hash than the known one; its notes then say so.

    Raises:
        GPT2JaxError: no such folder or data set; a file that has the name but not the contents, naming hash, size and
            line count that were expected and found; an archive that is damaged or lacks the file.
    """
    entry = dataset(name)
    if not data.is_dir():
        raise GPT2JaxError(f"data: {data}: no such folder")
    paths = list(_walk(data))
    wrong: list[tuple[Found, str]] = []
    akin: list[tuple[Path, Dataset]] = []
    for release in entry.releases:
        for path in _matching(release, data, paths):
            found, verdict = _read(entry, release, path)
            if verdict.other:  # Its own data set will find it.
                akin.append((path, verdict.other))
            elif verdict.problem is None:
                return found
            else:
                wrong.append((found, verdict.problem))
    if not wrong:
        akin += [(path, dataset(one)) for one in entry.akin for path in _files_of(dataset(one), data, paths)]
        return Missing(entry, data, tuple(dict.fromkeys(akin)))
    found, problem = wrong[0]
    if allow_changed and found.data:
        return dataclasses.replace(found, notes=(*found.notes, f"{CHANGED}: {problem}"))
    raise GPT2JaxError(f"{found.where}: not {entry.title}: {problem}")


def _walk(data: Path) -> Iterator[Path]:
    """Files below ``data``, sorted, down to :data:`DEPTH` folders; hidden folders are left out."""
    for folder, folders, names in os.walk(data):
        depth = len(Path(folder).relative_to(data).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEPTH else []
        yield from (Path(folder) / name for name in sorted(names))


def _matching(release: Release, data: Path, paths: list[Path]) -> Iterator[Path]:
    for name in release.names:
        parts = Path(name).parts
        for path in paths:
            below = path.relative_to(data).parts
            if (below == parts) if name.startswith("./") else (below[-len(parts) :] == parts):
                yield path


def _files_of(entry: Dataset, data: Path, paths: list[Path]) -> Iterator[Path]:
    for release in entry.releases:
        if release.form == "file":
            yield from _matching(release, data, paths)


def _read(entry: Dataset, release: Release, path: Path) -> tuple[Found, Verdict]:
    member: str | None = None
    try:
        if release.form == "zip":
            member, contents = _from_zip(path, release)
        elif release.form == "tar":
            member, contents = _from_tar(path, release)
        elif release.form == "parquet":
            contents = restore(release.restore or "", rows(path, release.fields), release.fields)
        else:
            contents = path.read_bytes()
        digest = hashlib.sha256(contents).hexdigest()
        verdict = judge(entry, release, path, contents, digest)
    except OSError as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error.strerror or error})") from None
    notes = (("read from a Parquet copy",) if release.form == "parquet" else ()) + verdict.notes
    return Found(entry, path, member, contents, digest, verdict.verified, notes), verdict


def _from_zip(path: Path, release: Release) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _ends(name, release.member):
                    return name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise GPT2JaxError(f"{path}: damaged: not a zip that can be read ({error})") from None
    raise GPT2JaxError(f"{path}: holds no {release.member}")


def _from_tar(path: Path, release: Release) -> tuple[str, bytes]:
    try:
        with tarfile.open(path, "r|*") as archive:
            for info in archive:
                file = archive.extractfile(info) if info.isfile() and _ends(info.name, release.member) else None
                if file:
                    return info.name, file.read()
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise GPT2JaxError(f"{path}: damaged: not a tar that can be read ({error})") from None
    raise GPT2JaxError(f"{path}: holds no {release.member}")


def _ends(name: str, member: str | None) -> bool:
    parts = Path(member or "").parts
    return Path(name).parts[-len(parts) :] == parts


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
