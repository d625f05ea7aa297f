"""The slope of log time against log size: the power of the size that time grows with."""

from collections.abc import Sequence

import numpy as np


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """By least squares: 1 where twice the size takes twice the time, 2 where it takes four times as long."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def line(sizes: Sequence[float], times: Sequence[float]) -> list[float]:
    """The times [sizes] that the fitted power gives."""
    return [float(time) for time in np.exp(np.polyval(np.polyfit(np.log(sizes), np.log(times), 1), np.log(sizes)))]


def upper(count: int) -> slice:
    """The upper half of ``count`` sizes, in order; three at least where there are so many. What every size costs alike
    flattens the lower half."""
    return slice(max(min(count // 2, count - 3), 0), None)


def of_rounds(sizes: Sequence[float], times: Sequence[Sequence[float]]) -> list[float]:
    """The slope over the upper half in each round by itself, of ``times`` [sizes][rounds]."""
    half = upper(len(sizes))
    return [slope(sizes[half], one[half]) for one in zip(*times, strict=True)]
