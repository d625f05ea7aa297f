"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` under a temporary name and rename it: a reader, or a crash, never meets half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)
