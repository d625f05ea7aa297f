"""Lines of the log."""

import contextlib
import sys


def say(line: str) -> None:
    """Print a line to stderr; none where nobody reads it any more."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
