"""The page and the picture of growth.json: each axis as it was last measured."""

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks import results, slopes
from benchmarks.growth_axes import AXES
from gpt2jax import tables
from gpt2jax.files import write_text
from gpt2jax.pictures import new_figure, save

# Slopes this much above what they should be are within what neighbours on the machine do to them.
MARGIN = 0.1
# Why an axis is steeper than it should be, by hand, of what was found.
WHY = {
    "sample_length": (
        "What grows is the cache. A token reads all of the cache that its program has room for, and a longer text\n"
        "has a longer one: 512 tokens go through one of 1,024 positions. With the cache's length alone, 32 tokens\n"
        "in 8 texts take 80 ms of the processor more at 1,024 than at 512, which is 0.31 ms for each token of a\n"
        "text, of 1.7 that one takes here. So the time of N tokens is N (a + b N), and its slope between 1 and 2."
    ),
}
# What was steeper until it was mended, by hand.
MENDED = {
    "sample_length": (
        "The first record of growth.json, from before: slope 1.56 of the processor, 2,148 ms at 512 tokens. At\n"
        "batch 1 the program copied all keys and values four times at every token: XLA's CPU compiler made two\n"
        "writes of the one into the cache, and shielded each from the other (in its text 32 copies, of the 8\n"
        "arrays of 4 layers; at batch 8 none). Written twice to the same place they stay one write, and nothing\n"
        "is copied (`gpt2jax/attention.py`, `write_cache`; `tests/generate/test_engine.py` looks for copies)."
    ),
}
COLUMNS = 3


def latest(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each axis the last record that has it, and what it says of it; in the order of :data:`AXES`."""
    found = {
        name: (record, record["axes"][name]) for record in results.read("growth", folder) for name in record["axes"]
    }
    return {name: found[name] for name in AXES if name in found}


def medians(found: dict[str, Any], clock: str = "seconds") -> list[float]:
    return [statistics.median(times) for times in found[clock]]


def fitted(found: dict[str, Any], clock: str = "seconds", whole: bool = False) -> float:
    """The slope of the medians, over the upper half of the sizes or over the whole."""
    times = medians(found, clock)
    half = slice(None) if whole else slopes.upper(len(times))
    return slopes.slope(found["sizes"][half], times[half])


def steeper(name: str, found: dict[str, Any]) -> bool:
    """Whether the processor's time grows faster than it should; the clock's is that of other programs too."""
    return fitted(found, "cpu_seconds") > AXES[name].most + MARGIN


def short(number: float) -> str:
    """1,024 as such and 7,382,784 as 7.4 million."""
    return f"{number:,}" if number < 1e6 else f"{number / 1e6:.1f} million"


def said(name: str, found: dict[str, Any]) -> str:
    sizes, times = found["sizes"], medians(found)
    return (
        f"{AXES[name].title}: {1e3 * times[0]:,.1f} ms at {short(sizes[0])} to {1e3 * times[-1]:,.1f} ms at"
        f" {short(sizes[-1])} {AXES[name].unit}; slope {fitted(found):.2f}, of the processor"
        f" {fitted(found, 'cpu_seconds'):.2f}, should be at most {AXES[name].most:g}"
    )


def slope_lines(found: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> list[list[str]]:
    names = ["axis", "from", "to", "slope", "range", "of the processor", "of all sizes", "at most", "because"]
    rows = [names]
    for name, (_, one) in found.items():
        axis, rounds = AXES[name], slopes.of_rounds(one["sizes"], one["seconds"])
        limits = f"{axis.most:g}" if axis.least == axis.most else f"{axis.least:g} to {axis.most:g}"
        rows.append(
            [
                axis.title,
                short(one["sizes"][0]),
                f"{short(one['sizes'][-1])} {axis.unit}",
                f"{fitted(one):.2f}",
                f"{min(rounds):.2f} to {max(rounds):.2f}",
                f"{fitted(one, 'cpu_seconds'):.2f}",
                f"{fitted(one, whole=True):.2f}",
                limits,
                axis.reason,
            ]
        )
    return rows


def time_lines(found: dict[str, Any]) -> list[list[str]]:
    rows = [["size", "median, ms", "range", "processor, ms", "slope from the size before"]]
    times, busy = medians(found), medians(found, "cpu_seconds")
    for at, size in enumerate(found["sizes"]):
        of = found["seconds"][at]
        step = f"{slopes.slope(found['sizes'][at - 1 : at + 1], times[at - 1 : at + 1]):.2f}" if at else "-"
        spread = f"{1e3 * min(of):,.1f} to {1e3 * max(of):,.1f}"
        rows.append([f"{size:,}", f"{1e3 * times[at]:,.1f}", spread, f"{1e3 * busy[at]:,.1f}", step])
    return rows


def page(found: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> str:
    records = list({id(record): record for record, _ in found.values()}.values())
    commands = list(dict.fromkeys(record["command"] for record in records))
    parts = [
        "# How time grows\n",
        "Made by `python -m benchmarks table` of growth.json; each axis as it was last measured.\n",
        "```\n" + "\n".join(commands) + "\n```\n",
    ]
    for versions in dict.fromkeys(
        ", ".join(f"{package} {version}" for package, version in record["versions"].items()) for record in records
    ):
        parts.append(f"{versions}.\n")
    parts += [
        "![Time against each size](growth.png)\n",
        "Slope: of log time against log size, medians of the rounds, over the upper half of the sizes, at least 3;\n"
        "range: of the rounds, each by itself; of the processor: of its seconds, all threads together. 1 is linear,\n"
        "2 grows with the square. Sizes of an axis run in turn, and all others are held. Load: of the machine over\n"
        "five minutes, ours with it; what is above the cores is other programs, which the clock counts and the\n"
        f"processor does not. Steeper than it should be is what is {MARGIN} above it by the processor.\n",
        tables.markdown(slope_lines(found)),
        "## Steeper than it should be\n",
    ]
    steep = [name for name, (_, one) in found.items() if steeper(name, one)]
    parts += [f"**{AXES[name].title}.**\n{WHY.get(name, 'Not explained yet.')}\n" for name in steep] or ["None.\n"]
    mended = [f"**{AXES[name].title}.**\n{text}\n" for name, text in MENDED.items() if name in found]
    parts += ["## Mended\n", *mended] if mended else []
    parts.append("## The times\n")
    for name, (record, one) in found.items():
        held = ", ".join(f"{key} {value:,}" for key, value in one["held"].items())
        parts.append(f"### {AXES[name].title[0].upper()}{AXES[name].title[1:]}\n")
        where = f"{record['machine']}, {record['date']}, load {record['load']}, {record['work']['rounds']} rounds"
        parts.append(f"{where}. In {AXES[name].unit}. Held, but for what grows: {held}.\n")
        parts.append(tables.markdown(time_lines(one)))
    return "\n".join(parts)


def draw(found: dict[str, tuple[dict[str, Any], dict[str, Any]]], path: Path) -> None:
    """A panel for each axis: times with their range, the fitted line, and the steepest that it should be."""
    figure = new_figure(4 * COLUMNS, 3.2 * math.ceil(len(found) / COLUMNS))
    for number, (name, (_, one)) in enumerate(found.items(), 1):
        axes, axis = figure.add_subplot(math.ceil(len(found) / COLUMNS), COLUMNS, number), AXES[name]
        sizes, times = one["sizes"], medians(one)
        errors = [
            [time - min(of) for time, of in zip(times, one["seconds"], strict=True)],
            [max(of) - time for time, of in zip(times, one["seconds"], strict=True)],
        ]
        axes.errorbar(sizes, times, yerr=errors, fmt="o", markersize=4, color="tab:blue", ecolor="tab:gray")
        half = slopes.upper(len(sizes))
        line = slopes.line(sizes[half], times[half])
        axes.plot(sizes[half], line, color="tab:blue", label=f"clock, slope {fitted(one):.2f}")
        busy = medians(one, "cpu_seconds")
        axes.plot(sizes, busy, "x", markersize=4, color="tab:orange")
        fit = slopes.line(sizes[half], busy[half])
        axes.plot(sizes[half], fit, color="tab:orange", label=f"processor, {fitted(one, 'cpu_seconds'):.2f}")
        steepest = [fit[0] * (size / sizes[half][0]) ** axis.most for size in sizes[half]]
        axes.plot(sizes[half], steepest, color="tab:gray", linestyle="--", label=f"at most {axis.most:g}")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 10:  # What is flat shall look it.
            middle = math.sqrt(low * high)
            axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
        axes.set_title(axis.title, fontsize=10)
        axes.set_xlabel(axis.unit)
        axes.set_ylabel("seconds")
        axes.legend(fontsize=8)
    save(figure, path)


def write(folder: Path) -> None:
    """growth.md and growth.png in ``folder``, if growth.json is there."""
    if found := latest(folder):
        draw(found, folder / "growth.png")
        write_text(folder / "growth.md", page(found))
        print(f"wrote {folder / 'growth.md'}")
