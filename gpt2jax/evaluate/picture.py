"""evaluation.png: ours against the paper, a panel for each of its columns, all models that were evaluated."""

import math
from pathlib import Path

from gpt2jax.evaluate.figures import Evaluation
from gpt2jax.evaluate.table import by_size
from gpt2jax.paper import paper
from gpt2jax.pictures import new_figure, save
from gpt2jax.presets import PRESETS

PAPER, OURS = "#888888", "#b3402a"


def draw(evaluations: list[Evaluation], path: Path) -> None:
    """Draw the figures that stand beside the paper's; models of other sizes stand to the right of its four."""
    others = [one for one in sorted(evaluations, key=by_size) if one.preset is None]
    names = [*PRESETS, *(one.model.rstrip("/").rsplit("/", 1)[-1] for one in others)]
    figure = new_figure(14, 6.5)
    for axes, column in zip(figure.subplots(2, 5).flat, paper().columns, strict=True):
        theirs = [paper().figures[preset][column.name] for preset in PRESETS]
        axes.plot(range(len(PRESETS)), theirs, "o--", color=PAPER, lw=1, ms=5, label="paper")
        points: list[tuple[int, float]] = []
        for one in evaluations:
            place = list(PRESETS).index(one.preset) if one.preset else len(PRESETS) + others.index(one)
            values = [found.value for found in one.figures if found.column == column.name]
            points += [(place, value) for value in values if math.isfinite(value)]
        if points:
            axes.plot(*zip(*points, strict=True), "D", color=OURS, ms=5, label="ours")
        if column.metric == "perplexity":
            axes.set_yscale("log")
        axes.set_title(f"{column.title} ({column.metric}{', %' if column.metric == 'accuracy' else ''})", fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.tick_params(axis="y", labelsize=7, which="both")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    save(figure, path)
