"""The canonical units U by which a log-probability is divided: which rule counted them is half of a perplexity."""

import re
from collections.abc import Callable

from gpt2jax.errors import GPT2JaxError, nearest

# A page's title line in WikiText: one equals sign on each side, where sections have two and more.
_TITLE = re.compile(r" = [^=].* = \n")


def pages(text: str) -> list[str]:
    """WikiText cut before the blank line above each title, as lm-evaluation-harness' documents are.

    They join to ``text``. The test file's 60 articles are 62 pages: two equations in one of them look like titles.
    """
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    starts = [
        index - 1 if index and not lines[index - 1].strip() else index
        for index, line in enumerate(lines)
        if _TITLE.fullmatch(line)
    ]
    starts = sorted({0, *starts})
    return ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _words_and_newlines(text: str) -> int:
    return len(text.split()) + text.count("\n")


def _split_on_spaces(text: str) -> int:
    return len(text.strip().split(" "))


def _words(text: str) -> int:
    return len(text.split())


def _words_by_page(text: str) -> int:
    return sum(len(re.split(r"\s+", page)) for page in pages(text))


def _bytes(text: str) -> int:
    return len(text.encode())


RULES: dict[str, Callable[[str], int]] = {
    # Each line's end counts as a word: the `<eos>` of word-level models. 1BW's `</s>` is the same.
    "words+newlines": _words_and_newlines,
    # Megatron-LM's: text.strip().split(" "), so a newline between spaces is a word, and those at the ends are not.
    "split-on-spaces": _split_on_spaces,
    "words": _words,
    # lm-evaluation-harness': re.split on white space, page by page, which finds an empty word at either end.
    "words-by-page": _words_by_page,
    "bytes": _bytes,
    "characters": len,
}


# What has no words but questions: the readers count them.
ITEMS = "items"


def count(text: str, rule: str) -> int:
    """The units of an original text by the rule of that name.

    Raises:
        GPT2JaxError: there is no such rule.
    """
    if rule not in RULES:
        raise GPT2JaxError(f"unit: {rule!r}: unknown ({nearest(rule, RULES)})")
    return RULES[rule](text)
