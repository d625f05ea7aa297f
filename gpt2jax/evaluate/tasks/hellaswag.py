"""HellaSwag (Zellers et al. 2019): which of four endings goes on with a description; by two conventions.

Completion style (build-nanogpt, llm.c) encodes context and ending apart and takes the lowest mean loss per token;
lm-evaluation-harness cleans the text and takes the highest sum over the characters of the ending. What each of them
calls `acc_norm` is the first figure here, what they call `acc`, by sums alone, the second.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt2jax.evaluate.figures import Figure
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.likelihood import Scored
from gpt2jax.evaluate.readers.hellaswag import CONVENTIONS, HellaSwagItem, read_hellaswag
from gpt2jax.evaluate.tasks.items import Items, accuracy, total
from gpt2jax.tokenizer import encode_corpus


def hellaswag(found: Found, setting: Setting) -> Iterator[Job]:
    """Both conventions."""
    for convention in CONVENTIONS:
        items = setting.first(read_hellaswag(found.data, found.where, convention))
        rows = Items(setting)
        for item in items:
            for ending in item.endings:
                where = f"{found.where}: line {item.line}"
                if convention == "completion":
                    apart = [encode_corpus(setting.encoding, text) for text in (item.context, f" {ending}")]
                    rows.add_tokens(np.concatenate(apart), len(apart[0]), where)
                else:
                    # Where a bracket was taken out at its end, the context ends with a space, which the harness scores.
                    context = item.context.rstrip()
                    rows.add(context, f"{item.context.removeprefix(context)} {ending}", where)
        reduce = functools.partial(_figures, convention=convention, items=items)
        yield rows.job(f"hellaswag/{convention}", reduce, found)


def _figures(scored: Iterator[Scored], convention: str, items: Sequence[HellaSwagItem]) -> list[Figure]:
    normalised: list[bool] = []
    plain: list[bool] = []
    for item in items:
        some = [next(scored) for _ in item.endings]
        sums = np.array([total(one) for one in some])
        lengths = [len(one.log_probs) for one in some] if convention == "completion" else list(map(len, item.endings))
        plain.append(int(np.argmax(sums)) == item.answer)
        normalised.append(int(np.argmax(sums / np.array(lengths))) == item.answer)
    per = "token" if convention == "completion" else "character"
    rules = {f"per {per}": (normalised, f"log-probability per {per}"), "sum": (plain, "log-probability")}
    return [
        dataclasses.replace(
            accuracy("hellaswag", f"{convention}, {name}", f"the ending with the highest {rule}", right, "questions"),
            headline=right is normalised,
        )
        for name, (right, rule) in rules.items()
    ]
