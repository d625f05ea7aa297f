"""The paper's Table 3 as data, and what others measured with the same weights."""

import functools
from importlib import resources
from typing import Any, Literal

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.fields import Finite, NotEmpty, Positive, settings
from gpt2jax.presets import ALIASES, PRESETS
from gpt2jax.yaml_file import parse_yaml


@settings("paper column")
class Column:
    """A column of the table."""

    name: NotEmpty
    title: NotEmpty
    metric: Literal["perplexity", "accuracy", "bits per byte", "bits per character"]
    """Accuracies are in percent."""
    higher_is_better: bool


@settings("reproduction")
class Reproduction:
    """A figure that somebody else published for the released weights."""

    model: NotEmpty
    """A preset's name."""
    task: NotEmpty
    """A column's name, or ``hellaswag``."""
    protocol: NotEmpty
    value: Finite
    source: NotEmpty


@settings("paper")
class Paper:
    columns: tuple[Column, ...]
    """Ten, in the table's order."""
    figures: dict[str, dict[str, Positive]]
    """The figure under a preset's name and a column's."""
    reproductions: tuple[Reproduction, ...]


@functools.cache
def paper() -> Paper:
    """The table that comes with the package."""
    return parse(_text("paper.yaml"), "paper.yaml")


def parse(text: str, where: str) -> Paper:
    """The table that ``text`` is as YAML.

    Raises:
        GPT2JaxError: a row has another number of figures than there are columns, or names are unknown.
    """
    raw: dict[str, Any] = parse_yaml(text, where)
    columns = tuple(Column(name=name, **rest) for name, rest in raw["columns"].items())
    names = [column.name for column in columns]
    for model, row in raw["rows"].items():
        if model not in PRESETS:
            raise GPT2JaxError(f"{where}: rows.{model}: unknown ({nearest(model, PRESETS)})")
        if len(row) != len(columns):
            raise GPT2JaxError(f"{where}: rows.{model}: {len(row)} figures: should be {len(columns)}, one a column")
    figures = {model: dict(zip(names, row, strict=True)) for model, row in raw["rows"].items()}
    reproductions = tuple(Reproduction(**entry) for entry in raw["reproductions"])
    for entry in reproductions:
        if entry.model not in figures or entry.task not in (*names, "hellaswag"):
            raise GPT2JaxError(f"{where}: reproductions: {entry.model} on {entry.task}: no such model or task")
    return Paper(columns=columns, figures=figures, reproductions=reproductions)


def figure(column: str, model: str) -> float | None:
    """The paper's figure for a model by any of its names; None where the paper has none.

    Raises:
        GPT2JaxError: the paper has no such column.
    """
    known = paper()
    names = [one.name for one in known.columns]
    if column not in names:
        raise GPT2JaxError(f"column: {column!r}: not in the paper's table ({nearest(column, names)})")
    return known.figures.get(ALIASES.get(model, model), {}).get(column)


def _text(name: str) -> str:
    return resources.files("gpt2jax").joinpath(name).read_text(encoding="utf-8")
