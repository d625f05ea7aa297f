"""The picture of a run."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.pictures import new_figure, save
from gpt2jax.train.rows import Row

# Rows that a curve is drawn of as they are; of more, the lowest and the highest of each of so many parts.
MAX_POINTS = 1000
# From so many rows on the training loss is drawn smoothed as well, over a fiftieth of them.
SMOOTH_FROM = 100

# Seconds from one picture of a running run to the next, and the share of the time that drawing may take. Where the run
# pauses for something else, AT_PAUSES are enough, whatever its share.
INTERVAL = 30.0
AT_PAUSES = 5.0
SHARE = 0.01

TRAIN, VALIDATION, RATE, NORM = "#9db8d9", "#b3402a", "#333333", "#5a9a5a"


class Picture:
    """loss.png, renewed while a run goes on."""

    def __init__(self, path: Path, title: str, restarts: list[int], silent: bool = False) -> None:
        """
        Args:
            restarts: steps at which the run was resumed.
            silent: draw nothing, in all processes of a run but one.
        """
        self._path, self._title, self._restarts, self._silent = path, title, restarts, silent
        self._last = time.monotonic()
        self._next = self._last + INTERVAL
        self._drawn: int | None = None  # Rows in the last one.

    def due(self) -> bool:
        """Whether enough time has passed for another."""
        return not self._silent and time.monotonic() >= self._next

    def renew(self, rows: list[Row]) -> str:
        """Draw it at a pause of the run, unless the last one is of just before: drawing takes longer than a step of a
        small model, or than its validation."""
        return self.draw(rows) if time.monotonic() >= self._last + AT_PAUSES else ""

    def draw(self, rows: list[Row]) -> str:
        """Draw it, unless no row has come since; what to say where it cannot be written, else nothing: no run ends for
        want of a picture."""
        if self._silent or len(rows) == self._drawn:
            return ""
        began, fault = time.monotonic(), ""
        try:
            draw_loss(rows, self._path, self._title, self._restarts)
            self._drawn = len(rows)
        except GPT2JaxError as error:
            fault = str(error)
        self._last = time.monotonic()
        self._next = self._last + max(INTERVAL, (self._last - began) / SHARE)
        return fault


def draw_loss(rows: list[Row], path: Path, title: str, restarts: list[int]) -> None:
    """Draw training and validation loss (nats per token), learning rate and gradient norm over steps to a PNG.

    Args:
        restarts: steps to mark as those at which the run was resumed.
    """
    train = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    figure = new_figure(8, 6)
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    losses.plot(*thin(train, "step", "loss"), color=TRAIN, lw=1, label="train")
    if len(train) >= SMOOTH_FROM:
        losses.plot(*thin(smooth(train, "loss"), "step", "loss"), color="#2f5d96", lw=1.5, label="train, smoothed")
    if validation:
        best = min(validation, key=lambda row: row["validation_loss"])
        losses.plot(
            *thin(validation, "step", "validation_loss"),
            "o-",
            color=VALIDATION,
            ms=3,
            label=f"validation, best {best['validation_loss']:.4f} at step {best['step']:.0f}",
        )
    mark(losses, train, restarts)
    losses.set_ylabel("loss (nats per token)")
    losses.set_title(title)
    losses.grid(alpha=0.3)
    losses.legend()
    rate.plot(*thin(train, "step", "learning_rate"), color=RATE, lw=1)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    rate.grid(alpha=0.3)
    norm = rate.twinx()
    norm.plot(*thin(train, "step", "grad_norm"), color=NORM, lw=0.6)
    norm.set_ylabel("gradient norm", color=NORM)
    rate.set_zorder(norm.get_zorder() + 1)  # The one line over the many.
    rate.patch.set_visible(False)
    save(figure, path)


def mark(axes: Any, train: list[Row], restarts: list[int]) -> None:
    """Mark where the run was resumed, and the rows since whose predecessor steps were skipped."""
    for number, step in enumerate(sorted(set(restarts))):
        label = None if number else f"resumed ({len(restarts)} times)" if len(restarts) > 1 else "resumed"
        axes.axvline(step, color="#888888", lw=0.8, ls="--", label=label)
    skipped = skipped_at(train)
    if skipped:
        count = train[-1]["skipped_in_all"]
        # Along the bottom, whatever the losses are: that of a skipped step is often no number.
        axes.plot(
            skipped,
            [0.02] * len(skipped),
            "|",
            transform=axes.get_xaxis_transform(),
            color="#c07000",
            ms=9,
            label=f"skipped ({count:.0f} steps)",
        )


def skipped_at(train: list[Row]) -> list[float]:
    """Steps of the rows by which more steps were skipped than by the row before."""
    counts = [0.0, *(row.get("skipped_in_all", 0.0) for row in train)]
    return [row["step"] for row, before, now in zip(train, counts, counts[1:], strict=False) if now > before]


def thin(rows: list[Row], across: str, up: str, most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """The points of a curve, at most two for each of ``most`` parts of it: peaks stay in sight."""
    if len(rows) > most:
        size = math.ceil(len(rows) / most)
        chosen: list[Row] = []
        for first in range(0, len(rows), size):
            part = [row for row in rows[first : first + size] if math.isfinite(row[up])]
            ends = (pick(part, key=lambda row: row[up]) for pick in (min, max)) if part else iter(rows[first:][:1])
            chosen += sorted(ends, key=lambda row: row[across])
        rows = chosen
    return [row[across] for row in rows], [row[up] for row in rows]


def smooth(rows: list[Row], name: str) -> list[Row]:
    """The rows with the mean of a fiftieth of all rows, centred on each, for ``name``; towards the ends of fewer, as
    many to each side. It passes over what is not finite."""
    values = np.array([row[name] for row in rows], np.float64)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(rows))
    reach = np.minimum(np.minimum(places, places[::-1]), len(rows) // 100)
    first, end = places - reach, places + reach + 1
    known = counts[end] - counts[first]
    means = (sums[end] - sums[first]) / np.maximum(known, 1)
    return [row | {name: float(mean)} for row, mean, count in zip(rows, means, known, strict=True) if count]
