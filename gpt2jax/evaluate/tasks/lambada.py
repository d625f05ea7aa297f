"""LAMBADA (Paperno et al. 2016): the last word of a passage, which needs the whole passage to guess.

The paper scores the test split of 5,153 passages as they were before the release's own tokenization (section 3.3),
with a line break before each and straight quotes (openai/gpt-2, issue 131). Perplexity is that of whole last words.
Accuracy counts a word as right where each of its tokens is the most probable one, given those before it; the filter
takes stop words out of the running, to approximate that the word must be a sentence's last. Which words, and how, the
paper does not say: here no token that is a space and a stop word can be the most probable one.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt2jax.evaluate.figures import Figure, perplexity
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.readers.lambada import LambadaItem, read_lambada, read_lambada_plain
from gpt2jax.evaluate.tasks.items import Items, accuracy

FORMS = {
    "openai": "a line break before each passage and straight quotes (openai/gpt-2, issue 131)",
    "straight-quotes": "straight quotes, no line break before a passage",
    "as-is": "the text as it is in the file, as lm-evaluation-harness takes it",
}


def lambada(found: Found, setting: Setting) -> Iterator[Job]:
    """The openai form, whose figures stand beside the paper's, and with all variants the text as it is."""
    for form in FORMS if setting.config.variants == "all" else ("openai",):
        yield _job("lambada", form, read_lambada(found.data, found.where, form), found, setting)


def lambada_plain(found: Found, setting: Setting) -> Iterator[Job]:
    """The text that its authors published, lower-cased and tokenized, as it is."""
    yield _job("lambada-plain", "as-is", read_lambada_plain(found.data, found.where, "as-is"), found, setting)


def _job(task: str, form: str, items: Sequence[LambadaItem], found: Found, setting: Setting) -> Job:
    items, where = setting.first(items), f"{found.where}: line"
    rows = Items(setting)
    for item in items:
        rows.add(item.context, item.target, f"{where} {item.line}")
    return rows.job(f"{task}/{form}", functools.partial(_figures, task=task, form=form), found)


def _figures(scored: Iterator[Scored], task: str, form: str) -> list[Figure]:
    nll, last_nll, tokens = 0.0, 0.0, 0
    word: list[bool] = []
    filtered: list[bool] = []
    last: list[bool] = []
    for one in scored:
        nll -= float(np.sum(one.log_probs, dtype=np.float64))
        last_nll -= float(one.log_probs[-1])
        tokens += len(one.log_probs)
        word.append(bool(one.argmax.all()))
        filtered.append(bool(one.greedy.all()))  # The scorer is given the stop words.
        last.append(bool(one.argmax[-1]))
    items, text, headline = len(word), FORMS[form], form == "openai" or task != "lambada"
    paper = task == "lambada" and form == "openai"
    made = Figure(
        task=task,
        variant=f"{form}, perplexity",
        headline=headline,
        metric="perplexity",
        value=perplexity(nll / items),
        protocol=f"{text}; whole last word, given all before it",
        units=items,
        unit="last words",
        tokens=tokens,
        column="lambada-ppl" if paper else None,
        nll=nll,
        details={
            "perplexity per token": perplexity(nll / tokens),
            "of the last token alone": perplexity(last_nll / items),
        },
    )
    rules = {
        "whole word, stop-word filter": (filtered, "each token of the last word is the most probable but stop words"),
        "whole word": (word, "each token of the last word is the most probable"),
        "last token": (last, "the last token is the most probable, given the word's others"),
    }
    return [made] + [
        dataclasses.replace(
            accuracy(task, f"{form}, {name}", f"{text}; {rule}", right, "passages"),
            headline=headline and right is filtered,
            column="lambada-acc" if paper and right is filtered else None,
        )
        for name, (right, rule) in rules.items()
    ]
