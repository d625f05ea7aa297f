"""What tasks of items share: an item's tokens, a job of them, and shares with their standard error."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.rows import Row, pair
from gpt2jax.tokenizer import encode_corpus


class Items:
    """Rows that are few enough to keep, and how many of them lost the beginning of their context."""

    def __init__(self, setting: Setting) -> None:
        self.rows: list[Row] = []
        self._setting, self._cut = setting, 0

    def add(self, context: str, target: str, where: str) -> Row:
        """``target`` after ``context``, parted where the tokens of ``context`` alone end.

        So does lm-evaluation-harness, but for white space that ``context`` ends with: there it belongs to the target.
        An empty context is ``<|endoftext|>``. A context that does not fit loses its beginning.

        Raises:
            GPT2JaxError: naming ``where``: an empty target, or one that is too long.
        """
        whole = encode_corpus(self._setting.encoding, context + target)
        return self.add_tokens(whole, len(encode_corpus(self._setting.encoding, context)), where)

    def add_tokens(self, tokens: np.ndarray, first: int, where: str, longest: int = 0) -> Row:
        """Tokens of which those from ``first`` on are scored; otherwise as :meth:`add`.

        Args:
            longest: tokens of the longest of several rows that are to keep the same context: none keeps more of it
                than that one has room for.
        """
        end, window = self._setting.end_of_text, self._setting.window
        lost = max(0, min(max(longest, len(tokens)) - window - 1, first - 1))
        try:
            row = pair(tokens[lost:first], tokens[first:], window, None if first else end)
        except GPT2JaxError as error:
            raise GPT2JaxError(f"{where}: {error}") from None
        self._cut += lost > 0
        self.rows.append(row)
        return row

    def job(
        self,
        name: str,
        reduce: Callable[[Iterator[Scored]], list[Figure]],
        found: Found | None,
        notes: tuple[str, ...] = (),
    ) -> Job:
        """The job of all that was added; its figures have ``notes``, and say how many contexts were cut."""
        forward = sum(len(row.tokens) - 1 for row in self.rows)
        if self._cut:
            notes = (*notes, f"{self._cut:,} of {len(self.rows):,} contexts lost their beginning")

        def noted(scored: Iterator[Scored]) -> list[Figure]:
            return [dataclasses.replace(figure, notes=(*figure.notes, *notes)) for figure in reduce(scored)]

        return Job(name, lambda: iter(self.rows), len(self.rows), forward, noted, found)


def accuracy(task: str, variant: str, protocol: str, right: Sequence[bool], unit: str) -> Figure:
    """The share of ``right`` in percent, with the standard error of a mean of independent draws."""
    share = float(np.mean(right, dtype=np.float64))
    return Figure(
        task=task,
        variant=variant,
        headline=False,
        metric="accuracy",
        value=100 * share,
        protocol=protocol,
        units=len(right),
        unit=unit,
        tokens=0,
        standard_error=100 * math.sqrt(share * (1 - share) / len(right)),
    )


def total(scored: Scored) -> float:
    """The log-probability of all that is scored in a row, in nats, added in float64."""
    return float(np.sum(scored.log_probs, dtype=np.float64))
