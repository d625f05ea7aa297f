"""The error that a user sees."""

from collections.abc import Iterable
from difflib import get_close_matches


class GPT2JaxError(Exception):
    """Something the user can put right, said in one line.

    The line names the thing, its value and what is allowed. The command line prints it and exits with status 2.
    It is not a ``ValueError``, so that no library on the way takes it for one of its own.
    """


class GPT2JaxWarning(UserWarning):
    """Something the user should look at, said in one line; the work goes on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (nearest: X)`` when one of ``known`` resembles ``name``, else the whole list: the tail of an error line."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"nearest: {close[0]}" if close else f"known: {', '.join(known)}"
