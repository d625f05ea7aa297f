"""Streams of text: one number for a whole file, its negative log-likelihood over the units of the original.

With NLL in nats over the tokens of the text that was scored, and U units counted in the text as it is published:
perplexity = exp(NLL / U), bits per byte or character = NLL / (ln 2 U). A de-tokenizer changes the tokens and never U
(Radford et al. 2019, section 3.1).
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import tiktoken

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import rows, units
from gpt2jax.evaluate.figures import Figure, Metric, perplexity
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.rows import Counts, Row
from gpt2jax.tokenizer import encode_corpus


@dataclasses.dataclass(frozen=True)
class Text:
    """What is scored instead of an original: it, or what became of it."""

    documents: Sequence[str]
    """Scored each by itself."""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to score a file."""

    variant: str
    words: str
    """What is done to the text, for the reader of the figure."""
    text: Callable[[str], Text]
    unit: str
    """A rule of :data:`gpt2jax.evaluate.units.RULES`."""
    windows: Literal["strided", "whole", "rolling"] = "strided"
    """strided: by the user's stride; whole: without overlap; rolling: lm-evaluation-harness'."""
    prefix: bool = True
    """Whether ``<|endoftext|>`` comes first, so that the first token is scored as well."""
    metric: Metric = "perplexity"

    def rows(self, tokens: np.ndarray, setting: Setting) -> Iterator[Row]:
        if self.windows == "rolling":
            return rows.rolling(tokens, setting.window, _start(setting))
        return rows.strided(tokens, setting.window, self._stride(setting), self._prefix(setting))

    def count(self, length: int, setting: Setting) -> Counts:
        """Of what :meth:`rows` makes of so many tokens."""
        if self.windows == "rolling":
            return rows.count_rolling(length, setting.window)
        return rows.count_strided(length, setting.window, self._stride(setting), self._prefix(setting))

    def described(self, setting: Setting) -> str:
        if self.windows == "rolling":
            windows = f"windows of {setting.window} as lm-evaluation-harness rolls them"
        elif self.windows == "whole":
            windows = f"window {setting.window}, no overlap"
        else:
            windows = f"window {setting.window}, stride {self._stride(setting)}"
        first = "after <|endoftext|>" if self._prefix(setting) is not None else "the first token not scored"
        return f"{self.words}; {windows}; {first}"

    def _stride(self, setting: Setting) -> int:
        return setting.window if self.windows == "whole" else min(setting.config.stride, setting.window)

    def _prefix(self, setting: Setting) -> int | None:
        return setting.end_of_text if self.prefix or self.windows == "rolling" else None


def _start(setting: Setting) -> int:
    if setting.end_of_text is None:
        raise GPT2JaxError("windows that roll: need a vocabulary with <|endoftext|>, which the model's has not")
    return setting.end_of_text


def stream(
    task: str,
    column: str | None,
    original: str,
    found: Found,
    setting: Setting,
    ways: Sequence[Protocol],
    latin_1: bool = False,
) -> Iterator[Job]:
    """A job for the first of ``ways``, whose figure is to stand beside the paper's ``column``, or for all of them.

    Args:
        original: the text that U is counted in.
        latin_1: whether its characters stand for bytes, of text that may be cut within a character.
    """
    for number, way in enumerate(ways if setting.config.variants == "all" else ways[:1]):
        text = way.text(original)
        tokens = [_encode(setting.encoding, document, latin_1) for document in text.documents]
        counts = [way.count(len(some), setting) for some in tokens]
        figure = functools.partial(
            Figure,
            task=task,
            variant=way.variant,
            headline=number == 0,
            metric=way.metric,
            protocol=way.described(setting),
            units=units.count(original, way.unit),
            unit="bytes" if latin_1 else way.unit,
            tokens=sum(count.scored for count in counts),
            column=None if number else column,
            notes=text.notes,
        )
        yield Job(
            f"{task}/{way.variant}",
            functools.partial(_rows, way, tokens, setting),
            sum(count.rows for count in counts),
            sum(count.forward for count in counts),
            functools.partial(_reduce, figure=figure),
            found,
        )


def _encode(encoding: tiktoken.Encoding, text: str, latin_1: bool) -> np.ndarray:
    """Tokens of a text, or of bytes: those at its ends that belong to no whole character are a token each."""
    if not latin_1:
        return encode_corpus(encoding, text)
    pieces = re.split("([\udc80-\udcff])", text.encode("latin-1").decode("utf-8", "surrogateescape"))
    tokens = [
        [encoding.encode_single_token(piece.encode("utf-8", "surrogateescape"))]
        if len(piece) == 1 and "\udc80" <= piece <= "\udcff"
        else encode_corpus(encoding, piece)
        for piece in pieces
        if piece
    ]
    return np.concatenate(tokens).astype(np.uint32)


def _rows(way: Protocol, tokens: Sequence[np.ndarray], setting: Setting) -> Iterator[Row]:
    return itertools.chain.from_iterable(way.rows(some, setting) for some in tokens)


def _reduce(scored: Iterator[Scored], figure: Callable[..., Figure]) -> list[Figure]:
    nll = -math.fsum(float(np.sum(one.log_probs, dtype=np.float64)) for one in scored)
    blank = figure(value=0.0)
    per_unit, per_token = nll / blank.units, nll / blank.tokens
    value = perplexity(per_unit) if blank.metric == "perplexity" else per_unit / math.log(2)
    details = {"perplexity per token": perplexity(per_token), "nats per token": per_token, "nats per unit": per_unit}
    return [dataclasses.replace(blank, value=value, nll=nll, details=details)]
