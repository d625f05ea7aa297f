"""A file from the web: resumed, checked, and there whole or not at all."""

import contextlib
import hashlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gpt2jax import __version__
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import refuse_if_no_space
from gpt2jax.progress import Report, silent

try:
    import fcntl
except ImportError:  # Not on Windows: there two downloads at once are not kept apart.
    fcntl = None  # type: ignore[assignment]

ATTEMPTS = 3
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20

_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
# Answers below 500 that a later attempt may not get: a time-out, and too many requests.
_PASSING = (408, 429)
_PAGE = "the server sent a web page instead of the file"


def is_offline() -> bool:
    """Whether ``$GPT2JAX_OFFLINE`` forbids downloads."""
    return os.environ.get("GPT2JAX_OFFLINE", "") not in ("", "0")


def check_mirror(base: str) -> str:
    """``base`` without a slash at its end.

    Raises:
        GPT2JaxError: it is no web address.
    """
    if not base.startswith(("http://", "https://")):
        raise GPT2JaxError(f"mirror: {base!r}: should begin with http:// or https://")
    return base.rstrip("/")


def fetch(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    report: Report = silent,
) -> None:
    """Download ``url`` to ``path``, whose folder is there, going on where an earlier call stopped.

    A broken download is resumed by this call (three attempts) or a later one. The file appears under its name once its
    size, and its hash where one is known, have been checked.

    Raises:
        GPT2JaxError: no network, an answer that is not the file, or no space.
        OSError: the disk refuses.
    """
    _Download(url, path, size, sha256, md5, report).run()


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keeps other processes that want the same files waiting, and finding them there afterwards."""
    with lock.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Download:
    """One file, over as many requests as it takes."""

    def __init__(
        self, url: str, path: Path, size: int | None, sha256: str | None, md5: str | None, report: Report
    ) -> None:
        self.url, self.path, self.report = url, path, report
        self.partial = path.with_name(f"{path.name}.partial")
        # What the server called the version that the partial file is of.
        self.version = path.with_name(f"{path.name}.partial.etag")
        self.known_size, self.size, self.sha256, self.md5 = size, size, sha256, md5

    def run(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._fetch()
                break
            except (_BrokenError, *_NETWORK_ERRORS) as error:
                final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in _PASSING
                if final or attempt == ATTEMPTS:
                    raise GPT2JaxError(self._gave_up(error, attempt)) from None
                time.sleep(0.5 * attempt)
        self._check()
        os.replace(self.partial, self.path)
        self.version.unlink(missing_ok=True)

    def _fetch(self) -> None:
        """Append what is missing to the partial file; an answer that is not the file leaves it as it is."""
        have = self.partial.stat().st_size if self.partial.exists() else 0
        if have and have == self.size:
            return
        headers = {"User-Agent": f"gpt2jax/{__version__}", "Accept-Encoding": "identity"}
        version = self.version.read_text(encoding="latin-1") if have and self.version.exists() else None
        if have and version:  # Without knowing which version it is of, a partial file is worth nothing.
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        redirects = _Redirects()
        opener = urllib.request.build_opener(redirects)
        try:
            response = opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT_SECONDS)
        except ValueError as error:
            raise GPT2JaxError(f"{self.url}: not an address ({error})") from None
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # It is shorter than what we have: another version.
                self._discard()
                raise _BrokenError("the file has changed") from None
            raise
        with response:
            resumed = response.status == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._discard()
                raise _BrokenError("the server resumed at another place")
            have = have if resumed else 0
            if response.headers.get_content_type() == "text/html":  # An error page, or one to log in.
                raise GPT2JaxError(f"{self.url}: {_PAGE}")
            self._learn(response, redirects.headers, have)
            refuse_if_no_space(self.path, (self.size or 0) - have)
            with self.partial.open("ab" if resumed else "wb") as out:
                for chunk in _chunks(response):
                    self._write(out, chunk)
                    have += len(chunk)
                    self.report(have, self.size or have)
        if self.size is not None and have < self.size:
            raise _BrokenError(f"the connection ended after {have:,} of {self.size:,} bytes")

    def _write(self, out: BinaryIO, chunk: bytes) -> None:
        try:
            out.write(chunk)
            out.flush()
        except OSError:  # A full disk is of no use to anybody.
            self._discard()
            raise

    def _learn(self, response: Any, redirects: dict[str, str], have: int) -> None:
        """What the answer's head tells of the whole file.

        Raises:
            GPT2JaxError: it has another size than the file that is known, or none and nothing would show its end.
        """
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            whole = have + int(length)
            if self.known_size is not None and whole != self.known_size:
                raise GPT2JaxError(f"{self.url}: {whole:,} bytes: should be {self.known_size:,}")
            self.size = whole
        elif self.size is None and not response.chunked:
            raise GPT2JaxError(f"{self.url}: the server does not say how long the file is: a short one would not show")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            self.version.write_text(etag, encoding="latin-1")
        else:
            self.version.unlink(missing_ok=True)
        # Hugging Face names a large file by its SHA-256 when it redirects to where the file is.
        linked = redirects.get("x-linked-etag", "").strip('"')
        if self.sha256 is None and len(linked) == 64:
            self.sha256 = linked

    def _check(self) -> None:
        """Refuse, and remove, a whole file that is not the one wanted."""
        with self.partial.open("rb") as file:
            start = file.read(64).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html")):
            self._discard()
            raise GPT2JaxError(f"{self.url}: {_PAGE}")
        found = self.partial.stat().st_size
        if self.size is not None and found != self.size:
            self._discard()
            raise GPT2JaxError(f"{self.url}: {found:,} bytes: should be {self.size:,}")
        for kind, wanted in (("sha256", self.sha256), ("md5", self.md5)):
            if wanted is not None:
                with self.partial.open("rb") as file:
                    digest = hashlib.file_digest(file, kind).hexdigest()
                if digest != wanted:
                    self._discard()
                    raise GPT2JaxError(f"{self.url}: {kind} {digest}: should be {wanted}")

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _gave_up(self, error: Exception, attempts: int) -> str:
        reason: Any = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f"the server answered {error.code} {error.reason}"
        if isinstance(reason, socket.gaierror):
            reason = f"{reason.strerror}; is there a network?"
        tried = f" ({attempts} attempts)" if attempts > 1 else ""
        kept = "; run it again to go on from there" if self.partial.exists() and self.version.exists() else ""
        return f"{self.url}: {str(reason) or type(reason).__name__}{tried}{kept}"


class _BrokenError(Exception):
    """An answer that is worth another attempt."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps what their heads said."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.headers |= {name.lower(): value for name, value in headers.items()}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except OSError as error:  # Of the connection, whatever it is called: not of the disk.
            raise _BrokenError(str(error)) from None
        if not chunk:
            return
        yield chunk
