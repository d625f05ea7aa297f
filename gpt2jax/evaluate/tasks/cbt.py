"""The Children's Book Test (Hill et al. 2016): which of ten words is missing in the sentence after twenty others.

"We compute the probability of each choice and the rest of the sentence conditioned on this choice" (Radford et al.
2019, section 3.2), and take the most probable. The choice is put into the sentence before that is de-tokenized, so
that the spaces around it are right. Where the twenty sentences do not fit in, their beginning is dropped.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt2jax.evaluate.detokenize.cbt import CBT
from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.readers.cbt import GAP, CbtItem, read_cbt
from gpt2jax.evaluate.tasks.items import Items, accuracy
from gpt2jax.tokenizer import encode_corpus


def cbt(found: Found, setting: Setting) -> Iterator[Job]:
    """One job for all that is made of the same scores; its first figure stands beside the paper's."""
    name = found.dataset.name
    items = read_cbt(found.data, found.where)[: setting.config.limit]
    rows = Items(setting)
    own = [add_choices(item, setting, rows, f"{found.where}: line {item.line}") for item in items]
    reduce = functools.partial(_figures, task=name, columns=found.dataset.columns, items=items, own=own)
    yield rows.job(name, reduce, found)


def add_choices(item: CbtItem, setting: Setting, rows: Items, where: str) -> list[int]:
    """Add a row for each candidate, de-tokenized, in which it and the rest of the sentence are scored.

    Returns:
        How many of them are the candidate's.
    """
    context = "".join(f"{CBT.detokenize(sentence)}\n" for sentence in item.context)
    # The gap is spelled like a word, so that this is what every candidate's sentence begins with.
    gap = CBT.detokenize(item.query).partition(GAP)[0]
    own = []
    for candidate in item.candidates:
        sentence = CBT.detokenize(item.query.replace(GAP, candidate))
        # A candidate that is no word, a clitic say, may be joined to the word before.
        start = _shared(gap.rstrip(" "), sentence)
        before, after = context + sentence[:start], sentence[start:]
        row = rows.add(before, after, where)
        stop = max(after.find(candidate), 0) + len(candidate)
        read = [len(encode_corpus(setting.encoding, text)) for text in (before, before + after[:stop])]
        own.append(min(max(read[1] - read[0], 1), len(row.tokens) - row.first))
    return own


def _shared(first: str, second: str) -> int:
    """Characters that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def _figures(
    scored: Iterator[Scored],
    task: str,
    columns: Sequence[str],
    items: Sequence[CbtItem],
    own: Sequence[Sequence[int]],
) -> list[Figure]:
    rules = {
        "rest of the sentence": "the choice and the rest of the sentence",
        "choice alone": "the choice alone",
        "per token": "the choice and the rest of the sentence, per token",
    }
    right: dict[str, list[bool]] = {name: [] for name in rules}
    tokens = 0
    for item, some in zip(items, own, strict=True):
        scores: dict[str, list[float]] = {name: [] for name in rules}
        for count in some:
            log_probs = next(scored).log_probs.astype(np.float64)
            tokens += len(log_probs)
            whole = float(log_probs.sum())
            scores["rest of the sentence"].append(whole)
            scores["choice alone"].append(float(log_probs[:count].sum()))
            scores["per token"].append(whole / len(log_probs))
        for name, values in scores.items():
            right[name].append(int(np.argmax(values)) == item.answer)
    text = "our de-tokenizer; ten choices, of which the most probable counts, by"
    figures = [accuracy(task, name, f"{text} {rule}", right[name], "questions") for name, rule in rules.items()]
    first = dataclasses.replace(figures[0], headline=True, column=next(iter(columns), None), tokens=tokens)
    return [first, *figures[1:]]
