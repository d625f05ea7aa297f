"""Many units at once: in processes of their own, or in the caller's where one is asked for."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import tiktoken

from gpt2jax.data.encode import Job, Settings, encode, survey
from gpt2jax.data.parts import Record
from gpt2jax.data.sources import Reading, Source, digest
from gpt2jax.data.units import Unit
from gpt2jax.errors import GPT2JaxError
from gpt2jax.progress import Report


def digests(sources: Sequence[Source], workers: int) -> list[str]:
    """The hash of each source. In threads: hashing lets others run."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(digest, sources))


def surveys(units: Sequence[Unit], reading: Reading, workers: int) -> list[tuple[int, str]]:
    """Characters of each unit: how many, and which."""
    found: dict[int, tuple[int, str]] = {}
    for at, result in _run(_survey, [(unit, reading) for unit in units], workers, None):
        found[at] = result
    return [found[at] for at in range(len(units))]


def encode_all(
    work: Sequence[tuple[Job, str]],
    settings: Settings,
    encoding: tiktoken.Encoding,
    folder: Path,
    workers: int,
    report: Report,
    total: int,
) -> None:
    """Do what is to do, in order where one process does it; ``total`` is the size of all, for the report.

    Raises:
        GPT2JaxError: what :func:`gpt2jax.data.encode.encode` raises, or a process was killed.
    """
    ready = total - sum(job.size for job, _ in work)
    if min(workers, len(work)) <= 1:
        for job, key in work:
            read, whole = 0, job.size

            def done(size: int, start: int = ready, whole: int = whole) -> None:
                nonlocal read
                read = min(read + size, whole)  # Of what is compressed, the text is longer.
                report(start + read, total)

            encode(job, key, settings, encoding, folder, done)
            ready += whole
            if read < whole:
                report(ready, total)
        return
    for at, _ in _run(_encode, [(job, key, settings, folder) for job, key in work], workers, encoding):
        ready += work[at][0].size
        report(ready, total)


def _run(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int, encoding: tiktoken.Encoding | None
) -> Iterator[tuple[int, Any]]:
    """What ``function`` makes of each task, with its number, as they come."""
    if min(workers, len(tasks)) <= 1:
        yield from ((at, function(*task)) for at, task in enumerate(tasks))
        return
    # Not forked: the caller may have threads, jax's among them.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(tasks)), context, _begin, (encoding,))
    try:
        # A few ahead of the processes, so that a failure is not waited for behind all others.
        waiting: dict[concurrent.futures.Future[Any], int] = {}
        for at, task in enumerate(tasks):
            waiting[pool.submit(function, *task)] = at
            if len(waiting) >= 2 * workers or at + 1 == len(tasks):
                yield from _finished(waiting, everything=at + 1 == len(tasks))
    except BrokenProcessPool:
        raise GPT2JaxError("workers: one was killed (for want of memory?): start again, with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: dict[concurrent.futures.Future[Any], int], everything: bool) -> Iterator[tuple[int, Any]]:
    while waiting:
        done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()
        if not everything:
            return


_encoding: tiktoken.Encoding | None = None


def _begin(encoding: tiktoken.Encoding | None) -> None:
    """What a process of the pool begins with. Ctrl-C is the caller's; without a caller there is nothing to do."""
    global _encoding
    _encoding = encoding
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _survey(unit: Unit, reading: Reading) -> tuple[int, str]:
    return survey(unit, reading)


def _encode(job: Job, key: str, settings: Settings, folder: Path) -> Record:
    assert _encoding is not None
    return encode(job, key, settings, _encoding, folder, lambda size: None)
