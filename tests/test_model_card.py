"""MODEL_CARD.md says what the package's own data say."""

import itertools
import re
from pathlib import Path

import pytest

from gpt2jax import parameters
from gpt2jax.config import ModelConfig, preset
from gpt2jax.paper import paper
from gpt2jax.presets import ALIASES, PRESETS
from gpt2jax.risks import READING, RISKS, USES

CARD = (Path(__file__).parents[1] / "MODEL_CARD.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> tuple[list[str], dict[str, list[str]]]:
    """Titles of the columns, and the rows by their first cell, of the first table below a heading."""
    lines = text.split(f"\n{heading}\n", 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    found = itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found]
    return rows[0], {row[0]: row[1:] for row in rows[2:] if row[0] in PRESETS}


def figures_that_differ(text: str) -> list[str]:
    """Cells of the table of results that are not the package's own, by model and column."""
    titles, rows = table(text, "## Evaluation")
    assert list(rows) == list(PRESETS)
    assert [title.rsplit(" ", 1)[0] for title in titles[1:]] == [column.title for column in paper().columns]
    return [
        f"{model} {column.name}"
        for model, cells in rows.items()
        for column, cell in zip(paper().columns, cells, strict=True)
        if float(cell) != paper().figures[model][column.name]
    ]


def test_the_papers_figures_are_those_of_the_package() -> None:
    assert figures_that_differ(CARD) == []


def test_a_figure_gone_wrong_is_seen() -> None:
    changed = CARD.replace("| 55.48 |", "| 55.84 |")
    assert figures_that_differ(changed) == ["gpt2-medium lambada-acc"]


@pytest.mark.parametrize("model", PRESETS)
def test_sizes_are_those_of_the_presets(model: str) -> None:
    _, rows = table(CARD, "## Models")
    name, in_paper, *sizes = rows[model]
    config = ModelConfig(**preset(model))  # type: ignore[arg-type]
    assert ALIASES[name] == ALIASES[in_paper] == model
    assert [int(size.replace(",", "")) for size in sizes] == [
        parameters.count(config), config.n_layer, config.n_head, config.n_embd,
    ]  # fmt: skip


@pytest.mark.parametrize(("title", "section"), [("Risks", RISKS), ("Uses", USES), ("Reading on", READING)])
def test_what_every_model_carries_is_what_this_card_says(title: str, section: str) -> None:
    found = re.search(rf"^## {title}\n.*?(?=^## |\Z)", CARD, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert found[0].strip() == section.strip()
