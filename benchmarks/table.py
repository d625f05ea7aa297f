"""The tables and the pictures of what was measured, from the JSON files alone: the latest record of each work."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import growth_page, results
from gpt2jax import tables
from gpt2jax.files import write_text
from gpt2jax.pictures import new_figure, save

BENCHMARKS = ("train", "generate", "score", "load", "start")
# Of the work: how it was measured, not what.
NOT_WORK = ("rounds", "steps")


def latest(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The last record of each work and machine, by benchmark, in the order in which they first came."""
    found = {name: latest_of(name, folder) for name in BENCHMARKS}
    return {name: records for name, records in found.items() if records}


def latest_of(name: str, folder: Path) -> list[dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for record in results.read(name, folder):
        work = {key: value for key, value in record["work"].items() if key not in NOT_WORK}
        records[json.dumps([record["machine"], work], sort_keys=True)] = record
    return list(records.values())


def named(record: dict[str, Any]) -> str:
    work = record["work"]
    parts = [str(work["size"])]
    parts += [f"{name} {work[name]}" for name in ("batch", "n_ctx", "stride") if name in work]
    return ", ".join([*parts, record["machine"]])


def milliseconds(one: dict[str, float]) -> str:
    return f"{1e3 * one['median']:,.1f} ms ({1e3 * one['low']:,.1f} to {1e3 * one['high']:,.1f})"


def lines(records: list[dict[str, Any]]) -> list[list[str]]:
    rows = [
        [
            "work",
            "side",
            "median (range)",
            "processor",
            "its time over ours",
            "range",
            "of the processor",
            "load",
            "date",
        ]
    ]
    for record in records:
        for name, side in record["sides"].items():
            ratio = record.get("ratios", {}).get(name)
            processor = f"{1e3 * side['cpu_seconds']['median']:,.1f} ms"
            cells = ["", "", ""]
            if ratio:
                clock = ratio["clock"]
                cells = [f"{clock['median']:.2f}", f"{clock['low']:.2f} to {clock['high']:.2f}"]
                cells.append(f"{ratio['cpu']['median']:.2f}")
            rows.append(
                [
                    named(record),
                    name,
                    milliseconds(side["seconds"]),
                    processor,
                    *cells,
                    str(record["load"]),
                    record["date"],
                ]
            )
    return rows


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    parts = [
        "# Measured beside peers\n",
        "Made by `python -m benchmarks table` of the JSON files here, which hold every run with its command and\n"
        "versions; the latest of each work is shown. Sides run in turn in one call; a ratio is of neighbours in time,\n"
        "and above 1 the peer takes longer. Load: of the machine over five minutes; what is above the cores in use is\n"
        "other work, and then the processor's time tells more than the clock's.\n",
    ]
    if any("ratios" in record and record["ratios"] for records in found.values() for record in records):
        parts.append("![The peers' time over ours](measured.png)\n")
    for name, records in found.items():
        commands = list(dict.fromkeys(record["command"] for record in records))
        versions = records[-1]["versions"]
        parts.append(f"## {name}\n")
        parts.append("```\n" + "\n".join(commands) + "\n```\n")
        parts.append(", ".join(f"{package} {version}" for package, version in versions.items()) + ".\n")
        parts.append(tables.markdown(lines(records)))
    return "\n".join(parts)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """A bar for each peer's ratio, of the clock, with its range; whether there was one to draw."""
    bars = [
        (f"{name}: {named(record)}, {peer}", ratio["clock"])
        for name, records in found.items()
        for record in records
        for peer, ratio in record.get("ratios", {}).items()
    ]
    if not bars:
        return False
    figure = new_figure(9, 1 + 0.3 * len(bars))
    axes = figure.subplots()
    medians = [one["median"] for _, one in bars]
    errors = [[one["median"] - one["low"] for _, one in bars], [one["high"] - one["median"] for _, one in bars]]
    axes.barh([label for label, _ in bars], medians, xerr=errors, color="tab:blue", ecolor="tab:gray")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("the peer's time over ours\n(above 1: ours is faster)")
    save(figure, path)
    return True


def run(given: argparse.Namespace) -> None:
    found = latest(given.results)
    draw(found, given.results / "measured.png")
    write_text(given.results / "measured.md", page(found))
    print(f"wrote {given.results / 'measured.md'}")
    growth_page.write(given.results)
