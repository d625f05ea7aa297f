"""HellaSwag: a context and four endings, in the two conventions that people measure."""

import dataclasses
import re

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.evaluate.readers.text import decode, fail, json_object, numbered, string

ENDINGS = 4
CONVENTIONS = ("completion", "lm-eval")

# WikiHow's parts of an article: "[header] How to ... [title] ... [step] ...".
_BRACKETS = re.compile(r"\[.*?\]")


@dataclasses.dataclass(frozen=True)
class HellaSwagItem:
    """A question by one of the conventions: a continuation is scored as ``context + " " + ending``."""

    line: int
    """In the file, from 1."""
    context: str
    endings: tuple[str, ...]
    """Four."""
    answer: int
    """The place of the right one."""
    source: str
    """``activitynet`` or ``wikihow``, or empty where the file does not say."""


def read_hellaswag(data: bytes, where: str, convention: str = "completion") -> list[HellaSwagItem]:
    """The questions of ``hellaswag_val.jsonl``.

    Args:
        convention: ``completion``, which takes ``ctx`` and the endings as they are (build-nanogpt, llm.c); or
            ``lm-eval``, which heads the context with the activity, begins its second part with a capital and takes
            WikiHow's brackets out.

    Raises:
        GPT2JaxError: unknown convention; empty, not UTF-8, not such lines, another number of endings than four, an
            empty one, or no label (the test file has none).
    """
    if convention not in CONVENTIONS:
        raise GPT2JaxError(f"hellaswag convention: {convention!r}: unknown ({nearest(convention, CONVENTIONS)})")
    items = []
    for number, line in numbered(decode(data, where)):
        record = json_object(line, where, number)
        endings = record.get("endings")
        if not isinstance(endings, list) or len(endings) != ENDINGS or not all(isinstance(one, str) for one in endings):
            fail(where, number, f"'endings': should be {ENDINGS} strings")
        label = record.get("label")
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < ENDINGS:
            fail(where, number, f"'label': {label!r}: should be a number from 0 to {ENDINGS - 1}")
        if convention == "completion":
            context = string(record, "ctx", where, number)
        else:
            activity, first = (string(record, key, where, number) for key in ("activity_label", "ctx_a"))
            second = string(record, "ctx_b", where, number, empty=True)
            context = _clean(f"{activity}: {first} {second.capitalize()}")
            endings = [_clean(ending) for ending in endings]
        if not all(ending.strip() for ending in endings):
            fail(where, number, "an ending is empty: nothing of it could be scored")
        source = str(record.get("source_id", "")).partition("~")[0]
        items.append(HellaSwagItem(number, context, tuple(endings), label, source))
    return items


def _clean(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")
