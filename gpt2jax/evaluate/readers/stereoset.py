"""StereoSet: a sentence or a continuation in three forms, stereotypical, anti-stereotypical and unrelated."""

import dataclasses
import json
from typing import Any

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.readers.text import decode

KINDS = ("intrasentence", "intersentence")
LABELS = ("stereotype", "anti-stereotype", "unrelated")


@dataclasses.dataclass(frozen=True)
class StereoSetItem:
    id: str
    kind: str
    """``intrasentence``: the sentences fill a gap in the context; ``intersentence``: they follow it."""
    target: str
    """The group or profession that it is about."""
    bias_type: str
    context: str
    stereotype: str
    anti_stereotype: str
    unrelated: str


def read_stereoset(data: bytes, where: str) -> list[StereoSetItem]:
    """The items of ``dev.json``, those within sentences first.

    Raises:
        GPT2JaxError: empty, not UTF-8, not such JSON, or an item that lacks one of the three sentences.
    """
    try:
        document = json.loads(decode(data, where))
    except (ValueError, RecursionError) as error:
        raise GPT2JaxError(f"{where}: not JSON ({error})") from None
    body = document.get("data") if isinstance(document, dict) else None
    items = []
    for kind in KINDS:
        entries = body.get(kind) if isinstance(body, dict) else None
        if not isinstance(entries, list) or not entries:
            raise GPT2JaxError(f"{where}: data.{kind}: should be a list of items")
        items += [_item(entry, kind, f"{where}: data.{kind}[{place}]") for place, entry in enumerate(entries)]
    return items


def _item(entry: Any, kind: str, where: str) -> StereoSetItem:
    if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
        raise GPT2JaxError(f"{where}: should be an object with sentences")
    known: dict[str, str] = {}
    for sentence in entry["sentences"]:
        label = _string(sentence, "gold_label", where)
        if label not in LABELS or label in known:
            raise GPT2JaxError(f"{where}: gold_label {label!r}: should be each of {', '.join(LABELS)} once")
        known[label] = _string(sentence, "sentence", where)
    missing = [label for label in LABELS if label not in known]
    if missing:
        raise GPT2JaxError(f"{where}: no {', '.join(missing)} sentence")
    identity, target, bias_type, context = (
        _string(entry, key, where) for key in ("id", "target", "bias_type", "context")
    )
    return StereoSetItem(identity, kind, target, bias_type, context, *(known[label] for label in LABELS))


def _string(entry: Any, key: str, where: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise GPT2JaxError(f"{where}: {key}: {value!r}: should be text")
    return value
