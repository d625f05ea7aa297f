"""Files and folders that are there whole or not at all."""

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2jax.errors import GPT2JaxError

# Names that :func:`_beside` gives.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        GPT2JaxError: there is none, or it holds something else.
    """
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The object that ``text`` is; ``where`` heads the error line.

    Raises:
        GPT2JaxError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GPT2JaxError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise GPT2JaxError(f"{where}: holds a {type(value).__name__}: should be an object")
    return value


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place at the end, and is removed when that is not reached.

    Raises:
        GPT2JaxError: it cannot be written.
    """
    with _beside(out) as folder:
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()  # It is empty; not every system renames over a folder.
        folder.rename(out)


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """The path of a new file beside ``out`` that takes its place at the end, and is removed when that is not reached.

    Raises:
        GPT2JaxError: it cannot be written.
    """
    with _beside(out) as file:
        yield file
        os.replace(file, out)


def make_folder(out: Path) -> None:
    """Make ``out`` and what is above it, where it is not there.

    Raises:
        GPT2JaxError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GPT2JaxError(f"{out}: cannot be made ({error.strerror or error})") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` under a temporary name and rename it: a reader, or a crash, never meets half of it."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed while they wrote into ``folder`` with these functions left there."""
    for path in folder.glob(".*.tmp"):
        if _PARTIAL.fullmatch(path.name):
            remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    # Not tempfile, whose files nobody but their owner may read.
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        raise GPT2JaxError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        if partial.is_dir():
            remove_folder(partial)
        elif partial.exists():
            partial.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder that threads of a writer which failed may still be writing to."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def refuse_if_no_space(out: Path, size: int) -> None:
    """Refuse to begin what will not fit on the disk.

    Raises:
        GPT2JaxError: fewer than ``size`` bytes are free where ``out`` is to be.
    """
    there = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise GPT2JaxError(f"{out}: needs {size:,} bytes of disk: {free:,} are free")


def refuse_occupied(out: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        GPT2JaxError: ``out`` is a file, or a folder that is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise GPT2JaxError(f"{out}: exists and is not empty; give a new folder")
    if (out.exists() and not out.is_dir()) or not out.name:
        raise GPT2JaxError(f"{out}: exists; give a new name")
