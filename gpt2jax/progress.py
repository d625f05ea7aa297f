"""A bar on stderr for work that is counted in bytes."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

# Told how many bytes are done, and how many there are in all.
Report = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Reports to nobody."""


@contextlib.contextmanager
def bar(text: str, progress: Report | bool = True) -> Iterator[Report]:
    """``progress`` itself if it is a function, else a bar headed ``text``; nothing where stderr is no terminal."""
    if not isinstance(progress, bool):
        yield progress
        return
    console = rich.console.Console(stderr=True)
    if not (progress and console.is_terminal):
        yield silent
        return
    columns = (
        rich.progress.TextColumn(text, markup=False),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as drawn:
        task = drawn.add_task("", total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)
