"""Bars on stderr: for work that is counted in bytes, and in pieces."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

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
    # Here, as the processes that encode a corpus, which draw nothing, take half again as long to start with it.
    import rich.console
    import rich.progress

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


@contextlib.contextmanager
def counter(text: str, total: int, progress: bool = True) -> Iterator[Callable[[int, str], None]]:
    """A bar headed ``text`` for work that is counted in pieces; to be called with how many are done and a remark.

    Where stderr is no terminal, a line a minute says how far the work has come, and about how long the rest will take.
    """
    if not progress:
        yield lambda done, remark: None
        return
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        last = began = time.monotonic()
        first: int | None = None

        def say(done: int, remark: str) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = done if first is None else first  # What was there already took no time.
            if now - last >= 60 or done == total:
                left = ""
                if first < done < total:
                    left = f"  {duration((now - began) * (total - done) / (done - first))} left"
                print(f"{text}: {done:,} of {total:,}  {remark}{left}", file=sys.stderr, flush=True)
                last = now

        yield say
        return
    columns = (
        rich.progress.TextColumn(text, markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[remark]}"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as drawn:
        task = drawn.add_task("", total=total, remark="")
        yield lambda done, remark: drawn.update(task, completed=done, remark=remark)


def duration(seconds: float) -> str:
    """A time in its two largest units: ``3 d 4 h``, ``5 min 6 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
