"""What a task asks of the model: rows to score, and what to make of their log-probabilities."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import tiktoken

from gpt2jax.config import EvaluationConfig
from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.rows import Row

Some = TypeVar("Some", bound=Sequence[Any])


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every task needs to know of the model and of the user's wishes."""

    config: EvaluationConfig
    encoding: tiktoken.Encoding
    window: int
    """Tokens that the model reads at once."""
    end_of_text: int | None
    """The token before a text that stands for itself; None where the vocabulary has none."""
    cut: list[int] = dataclasses.field(default_factory=list)
    """Lengths of what :meth:`first` has shortened."""

    def first(self, some: Some, each: int = 1) -> Some:
        """``some``, or as much of its beginning as the user's limit leaves, where one counts for ``each``."""
        limit = self.config.limit
        if limit is None or len(some) * each <= limit:
            return some
        self.cut.append(len(some))
        return cast(Some, some[: limit // each])


@dataclasses.dataclass(frozen=True)
class Job:
    """One pass of the model over one data set."""

    name: str
    rows: Callable[[], Iterator[Row]]
    """The rows, made anew by each call: a stream's are too many to keep."""
    count: int
    """How many there are."""
    forward_tokens: int
    """Tokens that the model reads in all of them."""
    reduce: Callable[[Iterator[Scored]], list[Figure]]
    """Their results, in order, to figures."""
    found: Found | None
    """The file that they are from; None where they are from none."""
