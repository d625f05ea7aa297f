"""What is left out of a corpus, and that it is counted."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from gpt2jax.data.clean import Cleaning
from gpt2jax.data.meta import Meta
from gpt2jax.data.order import Order
from gpt2jax.data.sources import Reading
from gpt2jax.errors import GPT2JaxError
from tests.data.test_prepare import quiet, tokens


def prepared(folder: Path, rows: list[dict[str, str]], *, unit_bytes: int = 2**24, **cleaning: Any) -> tuple[Meta, str]:
    source = folder / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / f"out{len(list(folder.iterdir()))}"
    meta = quiet([str(source)], out, validation_fraction=0, cleaning=Cleaning(**cleaning), unit_bytes=unit_bytes)
    text = "".join(chr(token) if token < 256 else "|" for token in tokens(out, meta, "train"))
    return meta, text


ROWS = [
    {"text": "first", "url": "https://example.org/wiki"},
    {"text": "x"},
    {"text": "wiki", "url": "https://en.wikipedia.org/wiki/A"},
    {"text": "first"},
    {"text": "also", "source": "Wikipedia (en)"},
    {"text": "First"},
]


def test_nothing_is_left_out_by_default(tmp_path: Path) -> None:
    meta, text = prepared(tmp_path, ROWS)
    assert text == "first|x|wiki|first|also|First|"
    assert (meta.cleaning, meta.dropped, meta.read) == (None, None, 6)


@pytest.mark.parametrize(
    ("cleaning", "text", "dropped"),
    [
        ({"min_characters": 2}, "first|wiki|first|also|First|", {"too short": 1}),
        ({"without_wikipedia": True}, "first|x|first|First|", {"Wikipedia": 2}),
        ({"exact_duplicates": True}, "first|x|wiki|also|First|", {"exact duplicates": 1}),
        (
            {"min_characters": 2, "without_wikipedia": True, "exact_duplicates": True},
            "first|First|",
            {"too short": 1, "Wikipedia": 2, "exact duplicates": 1},
        ),
    ],
)
@pytest.mark.parametrize("unit_bytes", [2**24, 30])
def test_what_is_left_out_is_counted(
    tmp_path: Path, cleaning: dict[str, Any], text: str, dropped: dict[str, int], unit_bytes: int
) -> None:
    meta, found = prepared(tmp_path, ROWS, unit_bytes=unit_bytes, **cleaning)
    assert found == text
    assert (meta.dropped, meta.read, meta.cleaning) == (dropped, 6, cleaning)
    assert meta.train.documents == 6 - sum(dropped.values())


@pytest.mark.parametrize("unit_bytes", [2**24, 3000])
def test_near_duplicates(tmp_path: Path, unit_bytes: int) -> None:
    rng = random.Random(0)

    def page(words: int) -> list[str]:
        return ["".join(rng.choices("abcdefghij", k=6)) for _ in range(words)]

    pages = [page(200) for _ in range(8)]
    near = [words.copy() for words in pages[:3]]
    for words in near:
        words[100] = "other"
    half = [*pages[3][:100], *page(100)]  # Shares a third of its runs.
    rows = [{"text": " ".join(words)} for words in [*pages, *near, half]]
    meta, _ = prepared(tmp_path, rows, near_duplicates=0.8, unit_bytes=unit_bytes)
    assert meta.dropped == {"near duplicates": 3}
    assert meta.train.documents == 9
    exact, _ = prepared(tmp_path, rows, exact_duplicates=True)
    assert exact.dropped == {"exact duplicates": 0}
    both, _ = prepared(tmp_path, [*rows, rows[0]], exact_duplicates=True, near_duplicates=0.8)
    assert both.dropped == {"exact duplicates": 1, "near duplicates": 3}


@pytest.mark.parametrize(
    ("cleaning", "message"),
    [
        ({"min_characters": -1}, "min characters: -1"),
        ({"near_duplicates": 0.3}, "near duplicates: 0.3: should be from"),
    ],
)
def test_mistakes(tmp_path: Path, cleaning: dict[str, Any], message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        prepared(tmp_path, ROWS, **cleaning)


@pytest.mark.parametrize("cleaning", [Cleaning(min_characters=5), Cleaning(without_wikipedia=True)], ids=str)
def test_joined_rows_are_not_left_out_one_by_one(cleaning: Cleaning) -> None:
    joined = Order(("hf:us/ours",), reading=Reading(join_rows=True), cleaning=cleaning)
    with pytest.raises(GPT2JaxError, match=r"(min characters|without wikipedia): .* should not be given with joined"):
        joined.check()
    dataclasses.replace(joined, reading=Reading()).check()  # Twins: each alone is well.
    dataclasses.replace(joined, cleaning=Cleaning(exact_duplicates=True)).check()
