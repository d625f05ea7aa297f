"""The table: ours beside the paper's, on a terminal and as Markdown."""

import math
from collections.abc import Sequence

from gpt2jax import paper
from gpt2jax.evaluate.figures import Evaluation, Figure, shown
from gpt2jax.presets import PRESETS
from gpt2jax.progress import duration
from gpt2jax.tables import Lines, markdown

NAMES = ("task", "ours", "paper", "difference", "U", "unit", "tokens", "time", "protocol")


def lines(evaluation: Evaluation, names: Sequence[str] = NAMES) -> Lines:
    """A line of ``names``, then one for each figure: those that stand beside the paper's first, in its order."""
    rows = [_line(figure, evaluation.preset) for figure in ordered(evaluation.figures)]
    return [list(names), *([row[name] for name in names] for row in rows)]


def line(figure: Figure, preset: str | None) -> str:
    """A figure as soon as it is there."""
    theirs = published(figure, preset)
    text = f"{figure.name}: {shown(figure.metric, figure.value)}{_spread(figure)}"
    if theirs is not None:
        text += f" (paper {shown(figure.metric, theirs)}, {difference(figure, theirs)})"
    return f"{text}, {duration(figure.seconds)}"


def ordered(figures: tuple[Figure, ...]) -> list[Figure]:
    """In the order of the paper's columns; what has none keeps its place behind."""
    places = {column.name: place for place, column in enumerate(paper.paper().columns)}
    tasks = {figure.task: places[figure.column] for figure in reversed(figures) if figure.column}
    return sorted(figures, key=lambda figure: (tasks.get(figure.task, len(places)), not figure.headline))


def _line(figure: Figure, preset: str | None) -> dict[str, str]:
    theirs = published(figure, preset)
    return {
        "task": figure.name,
        "ours": shown(figure.metric, figure.value) + _spread(figure),
        "paper": "-" if theirs is None else shown(figure.metric, theirs),
        "difference": "-" if theirs is None else difference(figure, theirs),
        "U": f"{figure.units:,}",
        "unit": figure.unit,
        "tokens": f"{figure.tokens:,}" if figure.tokens else "-",
        "time": duration(figure.seconds),
        "protocol": figure.protocol,
    }


def published(figure: Figure, preset: str | None) -> float | None:
    """The paper's value for this size."""
    return paper.figure(figure.column, preset) if preset and figure.column else None


def _spread(figure: Figure) -> str:
    return "" if figure.standard_error is None else f" ± {shown(figure.metric, figure.standard_error)}"


def difference(figure: Figure, theirs: float) -> str:
    """Of perplexities in percent of the paper's, else as it is."""
    if figure.metric == "perplexity":
        return f"{100 * (figure.value / theirs - 1):+.1f} %" if math.isfinite(figure.value) else "-"
    return shown(figure.metric, figure.value - theirs, sign=True).replace("%", "points")


def report(evaluations: list[Evaluation]) -> str:
    """All that was found, as Markdown: a table for each model, the protocols, others' figures, and what was missing."""
    text = "# Evaluation\n"
    for one in evaluations:
        text += f"\n## {one.model}\n\n"
        size = f"; the paper's row is that of {one.preset}, whose sizes these are" if one.preset else ""
        told = ", ".join(f"{name} {value:,}" for name, value in one.sizes.items())
        text += f"{told}{size}. Digest of parameters and computation: {one.digest}. Versions:"
        text += f" {', '.join(f'{name} {version}' for name, version in one.versions.items())}.\n\n"
        for command, device in dict.fromkeys((figure.command, figure.device) for figure in one.figures):
            text += f"    {command}\n\non {device}.\n\n"
        text += markdown(lines(one))
        text += "\n± is the standard error of a mean over the items. How each was made:\n\n"
        text += "".join(_told(figure) for figure in ordered(one.figures))
        if others := _others(one):
            text += f"\nWhat others found with the released {one.preset}:\n\n{others}"
        if one.missing:
            text += "\nNot there:\n\n" + "".join(f"* {line}\n" for line in one.missing)
    return text


def _others(evaluation: Evaluation) -> str:
    """Published figures of the same size and tasks, with their protocols."""
    tasks = {figure.column or figure.task for figure in evaluation.figures}
    return "".join(
        f"* {one.task}: {one.value:,.6g}: {one.protocol} ({one.source})\n"
        for one in paper.paper().reproductions
        if one.model == evaluation.preset and one.task in tasks
    )


def _told(figure: Figure) -> str:
    parts = [f"{figure.name}: {figure.protocol}."]
    if figure.data:
        parts.append(f"File {figure.data}, sha256 `{figure.sha256}`.")
    parts += [f"{note[:1].upper()}{note[1:]}." for note in figure.notes]
    if figure.details:
        parts.append(f"Also: {', '.join(f'{name} {value:,.4g}' for name, value in figure.details.items())}.")
    return f"* {' '.join(parts)}\n"


def by_size(evaluation: Evaluation) -> int:
    """For the order of several: released sizes from the smallest on, then the others."""
    return list(PRESETS).index(evaluation.preset) if evaluation.preset else len(PRESETS)
