"""How long training steps take."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds spent on training steps alone: compilation, validation, saving, samples and pictures are left out."""

    def __init__(self, total: float) -> None:
        self.total = total
        self._since: float | None = None
        self._lap_seconds = 0.0
        self._lap_steps = 0
        self._skipped = 0
        self._step = 0

    def resume(self, step: int) -> None:
        self._since, self._step = time.perf_counter(), step

    def pause(self, step: int) -> None:
        if self._since is not None:
            seconds = time.perf_counter() - self._since
            self.total += seconds
            self._lap_seconds += seconds
            self._lap_steps += step - self._step
            self._since = None

    @contextlib.contextmanager
    def paused(self, step: int) -> Iterator[None]:
        """Do not time what is done inside, after ``step``; a clock that stands goes on standing."""
        ran = self._since is not None
        self.pause(step)
        yield
        if ran:
            self.resume(step)

    def skip(self, step: int) -> None:
        """Do not time the step just done; it will count as much as the mean of its lap."""
        self._skipped += 1
        self.resume(step)

    def lap(self, step: int) -> float:
        """Mean seconds per step since the last lap; 0 when no whole step was timed."""
        self.pause(step)
        seconds = self._lap_seconds / self._lap_steps if self._lap_steps else 0.0
        self.total, self._skipped = self.total + seconds * self._skipped, 0
        self._lap_seconds, self._lap_steps = 0.0, 0
        self.resume(step)
        return seconds
