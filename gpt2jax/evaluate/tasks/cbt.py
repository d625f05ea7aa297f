"""The Children's Book Test (Hill et al. 2016): which of ten words is missing in the sentence after twenty others.

"We compute the probability of each choice and the rest of the sentence conditioned on this choice" (Radford et al.
2019, section 3.2), and take the most probable. The choice is put into the sentence before that is de-tokenized, so
that the spaces around it are right. Where the twenty sentences do not fit in, their beginning is dropped, for all ten
choices the same part of it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from gpt2jax.evaluate.detokenize.cbt import CBT
from gpt2jax.evaluate.detokenize.pair import detokenized
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
    items = setting.first(read_cbt(found.data, found.where))
    sentences = list(dict.fromkeys(sentence for item in items for sentence in (*item.context, *_filled(item))))
    natural = detokenized(sentences, CBT)
    spelled = dict(zip(sentences, natural.lines, strict=True))
    rows = Items(setting)
    own = [add_choices(item, spelled, setting, rows, f"{found.where}: line {item.line}") for item in items]
    reduce = functools.partial(_figures, task=name, columns=found.dataset.columns, items=items, own=own)
    yield rows.job(name, reduce, found, (natural.described("different sentences"),))


def add_choices(item: CbtItem, spelled: Mapping[str, str], setting: Setting, rows: Items, where: str) -> list[int]:
    """Add a row for each candidate, in which it and the rest of the sentence are scored.

    All are scored after the same tokens: those that all ten rows have before the gap. Where a candidate is joined to
    the word before it (``can`` and ``not``), or changes how that is spelled, all ten rows pay for that word.

    Args:
        spelled: the natural text of each sentence of the item, filled ones among them.

    Returns:
        How many of each row's scored tokens are not the rest of the sentence.
    """
    context = "".join(f"{spelled[sentence]}\n" for sentence in item.context)
    sentences = [spelled[sentence] for sentence in _filled(item)]
    # The gap is spelled like a word, so that this is what the sentence of a candidate begins with, if it is a word.
    gap = CBT.detokenize(item.query).partition(GAP)[0]
    before, *choices = (
        encode_corpus(setting.encoding, context + text) for text in (gap[: _shared(gap, *sentences)], *sentences)
    )
    first, longest = _shared(before, *choices), max(map(len, choices))
    own = []
    for candidate, sentence, tokens in zip(item.candidates, sentences, choices, strict=True):
        row = rows.add_tokens(tokens, first, where, longest)
        stop = max(sentence.find(candidate, _shared(gap, sentence)), 0) + len(candidate)
        read = len(encode_corpus(setting.encoding, context + sentence[:stop])) - first
        own.append(min(max(read, 1), len(row.tokens) - row.first))
    return own


def _filled(item: CbtItem) -> list[str]:
    """The query with each of the candidates in its gaps, as the file would have it."""
    return ["".join(item.fill(candidate)) for candidate in item.candidates]


def _shared(*some: Iterable[Hashable]) -> int:
    """Characters or tokens that all begin with."""
    return sum(1 for _ in itertools.takewhile(lambda each: len(set(each)) == 1, zip(*some, strict=False)))


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
