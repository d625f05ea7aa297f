"""Whether a file is the one that a data set's figures are made of, by size and hash; what was done to it where not."""

import dataclasses
import hashlib
from pathlib import Path

from gpt2jax.evaluate.catalog import Dataset, Release, catalog


@dataclasses.dataclass(frozen=True)
class Verdict:
    verified: bool
    """Whether a hash that is known says that it is the right file."""
    problem: str | None = None
    """What is wrong with it: the end of an error line."""
    other: Dataset | None = None
    """The data set that it belongs to, where that is another."""
    notes: tuple[str, ...] = ()
    """What to say beside every figure made of it."""


def judge(entry: Dataset, release: Release, path: Path, data: bytes, sha256: str) -> Verdict:
    """Compare the contents ``data`` of the file ``path`` with what is known of ``entry``; ``sha256`` is theirs."""
    if not data:
        return Verdict(False, "it is empty")
    for other in catalog().values():
        if other.name != entry.name and other.contents.sha256 == sha256:
            return Verdict(False, f"it is {other.name}: {other.title}", other)
    if not release.exact:
        return Verdict(False, notes=("its bytes are not the original's, whose hash says nothing of it",))
    known, lines = entry.contents, data.count(b"\n")
    if known.sha256:
        if sha256 == known.sha256:
            return Verdict(True)
        found = describe(sha256, len(data), lines if known.lines else None)
        repair = _repair(data, known.sha256)
        tail = f"; {repair}" if repair else ""
        return Verdict(False, f"{found}: should be {describe(known.sha256, known.size, known.lines)}{tail}")
    if known.lines and lines != known.lines:
        return Verdict(False, f"{lines:,} lines: should be {known.lines:,}")
    if release.member and release.sha256:  # What the archive holds has no hash that is known, but the archive has.
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == release.sha256:
            return Verdict(True)
        found = describe(digest, path.stat().st_size, None)
        return Verdict(False, f"the archive has {found}: should be {describe(release.sha256, release.size, None)}")
    return Verdict(False, notes=(f"hash not known; sha256 is {sha256}",))


def describe(sha256: str, size: int | None, lines: int | None) -> str:
    """Hash, size and line count, as far as known, for an error line."""
    text = f"sha256 {sha256}"
    if size is not None:
        text += f", {size:,} bytes"
    if lines is not None:
        text += f", {lines:,} lines"
    return text


def _repair(data: bytes, sha256: str) -> str | None:
    """What was done to the right file, where that is one of the usual things."""

    def right(contents: bytes) -> bool:
        return hashlib.sha256(contents).hexdigest() == sha256

    if b"\r\n" in data and right(data.replace(b"\r\n", b"\n")):
        return "it is the right text with Windows line ends"
    if data.startswith(b"\xef\xbb\xbf") and right(data[3:]):
        return "it is the right text after a byte order mark"
    bare = data.rstrip(b"\n")
    if any(right(bare + b"\n" * count) for count in (0, 1)):
        return "it is the right text with another number of newlines at its end"
    if len(data) < 2**24 and right(b"".join(_pad(line) for line in bare.split(b"\n"))):
        return "it is the right text without the spaces around its lines"
    return None


def _pad(line: bytes) -> bytes:
    text = line.strip()
    return b" " + text + b" \n" if text else b" \n"
