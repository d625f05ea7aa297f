"""Signals that end a run after the step in hand."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """A list that the first SIGINT or SIGTERM enters; a second one interrupts as usual."""
    received: list[signal.Signals] = []

    def note(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        for name, handler in previous.items():
            signal.signal(name, handler)

    def pass_on(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    # Of several processes jax watches for SIGTERM, and lets all of them know (:func:`agree_to_stop`).
    several = jax.process_count() > 1
    handlers: dict[signal.Signals, Any] = (
        {signal.SIGINT: pass_on} if several else dict.fromkeys((signal.SIGINT, signal.SIGTERM), note)
    )
    try:
        previous = {name: signal.signal(name, handler) for name, handler in handlers.items()}
    except ValueError:  # Not the main thread, as in some notebooks: signals are not ours to take.
        yield received
        return
    try:
        yield received
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def agree_to_stop(stop: list[signal.Signals], step: int) -> None:
    """Of several processes: enter SIGTERM into ``stop`` at the same step in all of them, once one has received it."""
    if jax.process_count() > 1 and not stop and multihost_utils.reached_preemption_sync_point(step):
        stop.append(signal.SIGTERM)
