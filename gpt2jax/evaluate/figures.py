"""Figures: what an evaluation found, with all that a reader needs to doubt it, and their JSON files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import pydantic

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import read_json, write_text

FORMAT_VERSION: Literal[1] = 1

Metric = Literal[
    "perplexity",
    "accuracy",
    "bits per byte",
    "bits per character",
    "loss",
    "share",
    "score",
    "correlation",
    "difference",
]
# Digits after the point, and the sign behind the number.
_SHOWN: dict[str, tuple[int, str]] = {
    "accuracy": (2, " %"),
    "share": (2, " %"),
    "bits per byte": (3, ""),
    "bits per character": (3, ""),
    "loss": (4, ""),
    "correlation": (3, ""),
    "difference": (3, ""),
}


def shown(metric: str, value: float, sign: bool = False) -> str:
    """``value`` as a reader wants it; ``sign`` also of positive ones."""
    digits, unit = _SHOWN.get(metric, (2, ""))
    return f"{value:{'+' if sign else ''},.{digits}f}{unit}"


def perplexity(nats: float) -> float:
    """e to the power of ``nats``; infinite where float64 has no number for it."""
    return math.exp(nats) if nats < 709 else math.inf


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number, and how it was made."""

    task: str
    variant: str
    """Which protocol of the task."""
    headline: bool
    """Whether it is the one that stands beside the paper's."""
    metric: Metric
    value: float
    """Perplexities, bits and nats as they are; accuracies and shares in percent."""
    protocol: str
    """In words: text, windows, what is scored."""
    units: int
    """U: what the sum is divided by."""
    unit: str
    """What U counts."""
    tokens: int
    """Tokens whose log-probabilities were used."""
    column: str | None = None
    """The paper's column that it is to be compared with."""
    nll: float | None = None
    """Their sum in nats, negative, in float64."""
    standard_error: float | None = None
    """Of the mean over items, in the units of the value, where items are drawn independently of each other."""
    forward_tokens: int = 0
    """Tokens that the model read for it."""
    seconds: float = 0.0
    command: str = ""
    """That made it."""
    device: str = ""
    """That it was made on, and the dtype of the products."""
    data: str = ""
    """Name of the file."""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    """What a reader should know beside the protocol: changed data, items left out, coverage of the de-tokenizer."""
    details: dict[str, float] = dataclasses.field(default_factory=dict)
    """Further numbers, by name."""

    @property
    def name(self) -> str:
        return f"{self.task}: {self.variant}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All figures of one model."""

    model: str
    """As it was given."""
    sizes: dict[str, int]
    """Layers, width and so on (:data:`gpt2jax.config.SIZES`)."""
    preset: str | None
    """The released size that these are, whose row of the paper is the one to compare with."""
    digest: str
    """Of all parameters and of how they were computed with."""
    versions: dict[str, str]
    """By which the last figures were made."""
    figures: tuple[Figure, ...]
    missing: tuple[str, ...] = ()
    """Of the last command: what was asked for and not there."""
    format_version: Literal[1] = FORMAT_VERSION


def write(evaluation: Evaluation, path: Path) -> None:
    """Write ``evaluation`` as JSON; what is not finite becomes null."""
    write_text(path, json.dumps(_finite(dataclasses.asdict(evaluation)), indent=2, ensure_ascii=False) + "\n")


def read(path: Path) -> Evaluation:
    """What :func:`write` wrote.

    Raises:
        GPT2JaxError: the file is none, or another version's.
    """
    mapping = read_json(path)
    version = mapping.get("format_version")
    if version != FORMAT_VERSION:
        raise GPT2JaxError(f"{path}: format_version: {version!r}: should be {FORMAT_VERSION}")
    for figure in mapping.get("figures", ()):
        if isinstance(figure, dict) and figure.get("value") is None:
            figure["value"] = math.nan
    try:
        return pydantic.TypeAdapter(Evaluation).validate_python(mapping)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise GPT2JaxError(f"{path}: {key}: {first['msg'].removeprefix('Input ')}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
