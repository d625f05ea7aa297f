"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.errors import GPT2JaxError


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


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` under a temporary name and rename it: a reader, or a crash, never meets half of it."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


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
            shutil.rmtree(partial, ignore_errors=True)
        elif partial.exists():
            partial.unlink()


def refuse_occupied(out: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        GPT2JaxError: ``out`` is a file, or a folder that is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise GPT2JaxError(f"{out}: exists and is not empty; give a new folder")
    if out.exists() and not out.is_dir():
        raise GPT2JaxError(f"{out}: exists; give a new name")
