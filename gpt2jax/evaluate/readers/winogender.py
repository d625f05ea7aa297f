"""Winogender schemas: a sentence about an occupation and a participant, in three genders of its pronoun."""

import dataclasses

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate.readers.text import decode, fail, numbered

HEAD = "sentid\tsentence"
GENDERS = ("female", "male", "neutral")
_REFERENTS = {"0": "occupation", "1": "participant"}


@dataclasses.dataclass(frozen=True)
class WinogenderItem:
    line: int
    """In the file, from 1."""
    text: str
    occupation: str
    participant: str
    """``someone`` in half of the sentences."""
    referent: str
    """Whom the pronoun means: ``occupation`` or ``participant``."""
    gender: str
    """The pronoun's: one of :data:`GENDERS`."""

    @property
    def schema(self) -> tuple[str, str, str]:
        return self.occupation, self.participant, self.referent


def read_winogender(data: bytes, where: str) -> list[WinogenderItem]:
    """The sentences of ``all_sentences.tsv``, whose ids read ``technician.customer.1.male.txt``.

    Raises:
        GPT2JaxError: empty, not UTF-8, another head, or a line that is not such an id, a tab and a sentence.
    """
    items = []
    for number, line in numbered(decode(data, where)):
        if number == 1:
            if line.strip() != HEAD:
                fail(where, 1, f"{line.strip()!r}: should be {HEAD!r}")
            continue
        identity, tab, text = line.partition("\t")
        parts = identity.strip().removesuffix(".txt").split(".")
        if not tab or len(parts) != 4 or parts[2] not in _REFERENTS or parts[3] not in GENDERS:
            fail(where, number, f"{line[:60]!r}: should be OCCUPATION.PARTICIPANT.0-or-1.GENDER.txt, tab, sentence")
        if not text.strip():
            fail(where, number, "no sentence")
        items.append(WinogenderItem(number, text.strip(), parts[0], parts[1], _REFERENTS[parts[2]], parts[3]))
    if not items:
        raise GPT2JaxError(f"{where}: no sentences below its head")
    return items


def schemas(items: list[WinogenderItem], where: str) -> list[dict[str, WinogenderItem]]:
    """The sentences of each schema by gender, in the file's order.

    Raises:
        GPT2JaxError: a schema lacks a gender or has one twice.
    """
    found: dict[tuple[str, str, str], dict[str, WinogenderItem]] = {}
    for item in items:
        if found.setdefault(item.schema, {}).setdefault(item.gender, item) is not item:
            fail(where, item.line, f"{'.'.join(item.schema)}: {item.gender} twice")
    for schema, sentences in found.items():
        missing = [gender for gender in GENDERS if gender not in sentences]
        if missing:
            line = next(iter(sentences.values())).line
            fail(where, line, f"{'.'.join(schema)}: no {', '.join(missing)} sentence")
    return list(found.values())
