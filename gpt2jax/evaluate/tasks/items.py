"""What tasks of items share: an item's tokens, a job of them, and shares with their standard error."""

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


def continuation(context: str, target: str, setting: Setting, where: str) -> Row:
    """``target`` after ``context``, cut where the tokens of ``context`` alone end, as lm-evaluation-harness does.

    An empty context is ``<|endoftext|>``. A context that does not fit loses its beginning.

    Raises:
        GPT2JaxError: naming ``where``: an empty target, or one that is too long.
    """
    whole = encode_corpus(setting.encoding, context + target)
    cut = len(encode_corpus(setting.encoding, context))
    try:
        return pair(whole[:cut], whole[cut:], setting.window, None if cut else setting.end_of_text)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{where}: {error}") from None


def of_items(
    name: str,
    rows: Sequence[Row],
    reduce: Callable[[Iterator[Scored]], list[Figure]],
    found: Found,
) -> Job:
    """The job of rows that are few enough to keep."""
    forward = sum(len(row.tokens) - 1 for row in rows)
    return Job(name, lambda: iter(rows), len(rows), forward, reduce, found)


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
