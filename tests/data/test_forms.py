"""Sources in every form, and read in parts: the same documents, wherever the parts end."""

import csv
import gzip
import io
import itertools
import json
import random
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2jax import tokenizer
from gpt2jax.data import extras, readers
from gpt2jax.data.corpora import Document, Reading, find_sources, read_documents
from gpt2jax.data.prepare import prepare
from gpt2jax.data.readers import read_unit
from gpt2jax.data.sources import InputFormat
from gpt2jax.data.units import plan
from gpt2jax.errors import GPT2JaxError

TEXTS = ["one\r\ntwo", 'a "quoted", text', "ü\u2028\N{SMILING FACE WITH OPEN MOUTH}", "last"]


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": number}) + "\n" for number, text in enumerate(texts)).encode()


def as_csv(texts: list[str]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["n", "text"], *([number, text] for number, text in enumerate(texts))])
    return out.getvalue().encode()


def as_parquet(path: Path, texts: list[str], rows: int = 2) -> Path:
    table = pyarrow.table({"n": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


def read(*names: Path, input_format: InputFormat = "auto", **reading: Any) -> list[str]:
    return in_parts(*names, unit_bytes=2**40, input_format=input_format, **reading)


def in_parts(*names: Path, unit_bytes: int, input_format: InputFormat = "auto", **reading: Any) -> list[str]:
    """The documents' texts, pieces put together, read by units of this size."""
    how, texts = Reading(**reading), list[str]()
    for unit in plan(find_sources([str(name) for name in names], input_format), how, unit_bytes):
        for document in read_unit(unit, how):
            texts[-1:] = [texts[-1] + document.text] if document.continues else [*texts[-1:], document.text]
    return texts


@pytest.mark.parametrize("compress", [None, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_of_every_form(tmp_path: Path, form: str, compress: Any) -> None:
    raw = json_lines(TEXTS) if form == "jsonl" else as_csv(TEXTS)
    ending = {None: "", gzip.compress: ".gz", zstandard.compress: ".zst"}[compress]
    path = tmp_path / f"a.{form}{ending}"
    path.write_bytes(compress(raw) if compress else raw)
    assert read(path) == TEXTS
    assert read(path, text_key="n") == ["0", "1", "2", "3"] if form == "csv" else True
    assert read(path, input_format="text") == [raw.decode()]  # Twin: a form that is given is the one that is read.


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_text_and_several_frames_of_it(tmp_path: Path, compress: Any) -> None:
    path = tmp_path / ("a.txt.gz" if compress is gzip.compress else "a.txt.zst")
    path.write_bytes(compress(b"one ") + compress(b"two"))
    assert read(path) == ["one two"]
    path.write_bytes(b"")
    with pytest.raises(GPT2JaxError, match="hold no text"):
        list(read_documents(find_sources([str(path)])))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("before", [b"", b"a frame before it"])
def test_a_compressed_file_that_is_cut_short_is_damaged(tmp_path: Path, compress: Any, before: bytes) -> None:
    path = tmp_path / ("a.txt.gz" if compress is gzip.compress else "a.txt.zst")
    text = random.Random(0).randbytes(250_000).hex().encode()  # Several of zstd's blocks.
    raw, before = compress(text), compress(before) if before else b""
    for kept in (9, len(raw) // 2, len(raw) - 1):
        path.write_bytes(before + raw[:kept])
        with pytest.raises(GPT2JaxError, match=r"a\.txt\..*: damaged") as caught:
            list(read_documents(find_sources([str(path)])))
        assert "\n" not in str(caught.value)
    path.write_bytes(before + raw)  # Twin: whole it is read.
    assert sum(len(text) for text in read(path)) == len(text) + (17 if before else 0)


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "a.parquet", TEXTS)
    assert read(path) == TEXTS
    units = plan(find_sources([str(path)]), Reading())
    assert [[document.text for document in read_unit(unit, Reading())] for unit in units] == [TEXTS[:2], TEXTS[2:]]
    with pytest.raises(GPT2JaxError, match=r"no column 'body' \(columns: 'n', 'text'\)"):
        read(path, text_key="body")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(GPT2JaxError, match=r"b\.parquet: cannot be read as Parquet"):
        read(tmp_path / "b.parquet")


def test_patterns_and_mixed_folders(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json_lines(["b"])))
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "c.csv").write_bytes(as_csv(["c"]))
    as_parquet(tmp_path / "d.parquet", ["d"])
    (tmp_path / "e.bin").write_text("e")
    (tmp_path / "f.gz").write_text("f")
    assert read(tmp_path) == ["a", "b", "c", "d"]
    assert read(tmp_path / "[bc].*") == ["b", "c"]
    with pytest.raises(GPT2JaxError, match=r"x\*: no file is of this pattern"):
        read(tmp_path / "x*")


@pytest.mark.parametrize(
    ("name", "raw", "encoding", "message"),
    [
        ("a.txt", b"x" * 400_000 + b"\xff", "utf-8", r"a\.txt: byte 400000: not UTF-8: should be UTF-8 text"),
        ("a.txt.gz", gzip.compress(b"ab \xc3", mtime=0), "utf-8", r"a\.txt\.gz: byte 3: not UTF-8"),
        ("a.csv", b"text\nab\xffc\n", "utf-8", r"a\.csv: byte 7: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "\xff"}', mtime=0), "utf-8", r"byte 10: not UTF-8"),
        ("a.txt", b"a\0\0", "utf-16-le", r"a\.txt: byte 2: not UTF-16-LE"),
        ("a.txt", b"\xef\xbb\xbfab\xff", "utf-8-sig", r"a\.txt: byte 5: not UTF-8-SIG"),
        ("a.txt", b"\xef\xbb\xbfab\xff", "utf-8", r"a\.txt: byte 5: not UTF-8:"),
        ("a.txt", b"\xef\xbb\xbf" + b"x" * 400_000 + b"\xff", "utf-8-sig", r"a\.txt: byte 400003: not UTF-8-SIG"),
        ("a.txt", b"x" * (2**18 - 1) + b"\xc3x", "utf-8-sig", r"a\.txt: byte 262143: not UTF-8-SIG"),
        ("a.csv", b'text\n"a', "utf-8", r"a\.csv: line 1: not CSV"),
        ("a.csv", b"n,text\n1\n", "utf-8", r"a\.csv: line 2: has no column 'text'"),
        ("a.csv", b"n\n1\n", "utf-8", r"a\.csv: line 1: no column 'text' \(columns: 'n'\)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, raw: bytes, encoding: str, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(GPT2JaxError, match=message) as caught:
        read(tmp_path / name, encoding=encoding)
    assert "\n" not in str(caught.value)


def test_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("für\r\n".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "für"}\n'.encode("utf-16"))
    assert read(tmp_path / "a.txt", encoding="latin-1") == ["für\r\n"]
    assert read(tmp_path / "b.jsonl", encoding="utf-16") == ["für"]
    with pytest.raises(GPT2JaxError, match="not UTF-8"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, compress: Any) -> None:
    texts = ["one \ufeff two", "\ufeffthree"] if name != "a.txt" else ["one \ufeff two three " * 9]
    raw = {"a.txt": texts[0].encode(), "a.jsonl": json_lines(texts), "a.csv": "\n".join(["text", *texts]).encode()}[
        name
    ]
    path = tmp_path / (name + (".gz" if compress is gzip.compress else ""))
    for before in (b"", b"\xef\xbb\xbf"):  # Elsewhere it is a character as any other.
        path.write_bytes(compress(before + raw))
        assert in_parts(path, unit_bytes=2**20) == in_parts(path, unit_bytes=20) == texts
    path.write_bytes(compress(b"\xef\xbb\xbf"))
    if name != "a.csv":
        assert read(path) == []


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(text: bytes, **arguments: Any) -> Any:
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))
        return prepare(["-"], tmp_path / "out", tokenizer="bytes", validation_fraction=0, progress=False, **arguments)

    meta = prepared(b"hello")
    assert (meta.train.tokens, meta.sources) == (6, ("-",))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert prepared(b"hello") == meta
    with pytest.raises(GPT2JaxError, match="not made from these sources"):
        prepared(b"other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one<|endoftext|>two<|endoftext|><|endoftext|>three")
    assert read(path, separator="<|endoftext|>") == ["one", "two", "three"]
    path.write_text("a\n\nb\n\n\nc", newline="")
    assert read(path, separator="\n\n") == ["a", "b", "\nc"]
    assert read(path, separator="\n\n", keep_separator=True) == ["a\n\n", "b\n\n", "\nc"]


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE", 30)
    monkeypatch.setattr(readers, "_BLOCK", 17)


WORDS = [
    "a",
    "it's",
    "don",
    "'t",
    "naïve",
    "漢字",
    "\u3000",
    "\u00a0",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "12",
    "...",
]


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("unit_bytes", [7, 40, 1000])
def test_a_text_in_parts_has_the_tokens_of_the_whole(tmp_path: Path, unit_bytes: int) -> None:
    encoding, rng, pieces = tokenizer.gpt2(), random.Random(0), 0
    for number in range(60):
        text = "".join(rng.choices(WORDS, k=rng.randrange(1, 120)))
        path = tmp_path / f"{number}.txt"
        path.write_text(text, newline="", encoding="utf-8")
        found, units = list[Document](), plan(find_sources([str(path)]), Reading(), unit_bytes)
        for unit in units:
            found += read_unit(unit, Reading())
        assert [document.continues for document in found] == [False] + [True] * (len(found) - 1)
        tokens = np.concatenate([tokenizer.encode_corpus(encoding, document.text) for document in found])
        assert tokens.tolist() == encoding.encode_ordinary(text)
        pieces += len(found)
    assert pieces > 100


@pytest.mark.usefixtures("short_pieces")
def test_cut_elsewhere_the_tokens_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above."""
    monkeypatch.setattr(readers, "SAFE_CUT", re.compile("."))
    path = tmp_path / "a.txt"
    path.write_text("antidisestablishmentarianism " * 9)
    found = list(read_documents(find_sources([str(path)])))
    tokens = np.concatenate([tokenizer.encode_corpus(tokenizer.gpt2(), document.text) for document in found])
    assert tokens.tolist() != tokenizer.gpt2().encode_ordinary(path.read_text())


@pytest.mark.usefixtures("short_pieces")
@settings(max_examples=40)
@given(
    st.lists(st.text(st.sampled_from("ab \n<|é"), max_size=60).filter(bool), min_size=1),
    st.integers(1, 80),
    st.sampled_from(["<|>", "\n\n", "|", "\n\n\n", "aa", "<|<"]),
    st.booleans(),
)
def test_documents_do_not_depend_on_the_units(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], unit_bytes: int, separator: str, keep: bool
) -> None:
    folder = tmp_path_factory.mktemp("units")
    (folder / "a.jsonl").write_bytes(json_lines(texts))
    assert in_parts(folder / "a.jsonl", unit_bytes=unit_bytes) == texts
    whole = separator.join(texts)
    (folder / "b.txt").write_text(whole, newline="", encoding="utf-8")
    *before, last = whole.split(separator)
    wanted = [text for text in [*(text + separator if keep else text for text in before), last] if text]
    found = in_parts(folder / "b.txt", unit_bytes=unit_bytes, separator=separator, keep_separator=keep)
    assert found == wanted


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("separator", "count"), [("\n\n", 9), ("\n", 9), ("<|endoftext|>", 9), ("\r\n\r\n", 1), ("\n--\n", 1)]
)
def test_texts_with_separators_are_cut(tmp_path: Path, separator: str, count: int, keep: bool) -> None:
    (tmp_path / "a.txt").write_text(("x" * 50 + separator) * 30, newline="")
    how = Reading(separator=separator, keep_separator=keep)
    units = plan(find_sources([str(tmp_path / "a.txt")]), how, (50 + len(separator)) * 30 // 9 + 1)
    assert len(units) == count


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("ab \n"), min_size=1, max_size=200), st.integers(1, 60), st.sampled_from(["", "a"]))
def test_no_unit_of_a_text_is_empty(
    tmp_path_factory: pytest.TempPathFactory, text: str, unit_bytes: int, separator: str
) -> None:
    path = tmp_path_factory.mktemp("units") / "a.txt"
    path.write_text(text, newline="")
    units = plan(find_sources([str(path)]), Reading(separator=separator), unit_bytes)
    assert all(unit.size > 0 for unit in units)
    assert sum(unit.size for unit in units) == len(text)
    assert (units[0].begins, units[-1].ends) == (True, True)
    assert all(separator or not (one.ends or two.begins) for one, two in itertools.pairwise(units))


def test_lines_keep_their_numbers_in_parts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(["x" * 50] * 20) + b"[]\n")
    with pytest.raises(GPT2JaxError, match=r"a\.jsonl: line 21: list: should be an object"):
        in_parts(tmp_path / "a.jsonl", unit_bytes=100)


class Rows:
    """What ``datasets`` gives: rows in files."""

    def __init__(self, files: list[list[dict[str, Any]]]) -> None:
        self.files, self.num_shards = files, len(files)

    def shard(self, num_shards: int, index: int, contiguous: bool) -> Iterator[dict[str, Any]]:
        assert (num_shards, contiguous) == (len(self.files), True)
        return iter(self.files[index])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub of one data set; what was asked of it."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, split: str, revision: str, streaming: bool) -> Rows:
        assert streaming
        asked.append((name, config, split, revision))
        if name != "us/ours":
            raise FileNotFoundError(f"no {name}\nmore of it")
        last = "" if config == "gap" else "two"
        return Rows([[{"text": "one", "url": "u"}, {"text": ""}], [{"text": last}]])

    def dataset_info(self: Any, name: str) -> Any:
        return types.SimpleNamespace(sha="abc123")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    api = type("HfApi", (), {"dataset_info": dataset_info})
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=api))
    return asked


def test_data_sets_of_the_hub(tmp_path: Path, hub: list[tuple[Any, ...]]) -> None:
    def prepared(name: str, **arguments: Any) -> Any:
        given: dict[str, Any] = {"tokenizer": "bytes", "validation_fraction": 0, "progress": False} | arguments
        return prepare([name], tmp_path / "out", **given)

    meta = prepared("hf:us/ours:small#train")
    assert set(hub) == {("us/ours", "small", "train", "abc123")}
    assert (meta.train.documents, meta.train.bytes, meta.train.tokens) == (2, 6, 8)
    assert prepared("hf:us/ours:small") == meta  # The same by its other name, and of the same revision.
    with pytest.raises(GPT2JaxError, match="not made from these sources"):
        prepared("hf:us/ours:small@old")
    joined = prepare(
        ["hf:us/ours"], tmp_path / "one", tokenizer="bytes", validation_fraction=0, progress=False,
        reading=Reading(join_rows=True),
    )  # fmt: skip
    assert (joined.train.documents, joined.train.tokens) == (1, 7)
    with pytest.raises(GPT2JaxError, match="file 1: holds no text: should hold some, to have its rows joined"):
        prepare(["hf:us/ours:gap"], tmp_path / "gap", tokenizer="bytes", reading=Reading(join_rows=True))
    with pytest.raises(GPT2JaxError, match=r"us/none@abc123#train: cannot be opened \(FileNotFoundError: no us/none\)"):
        prepare(["hf:us/none"], tmp_path / "none")
    with pytest.raises(GPT2JaxError, match="hf:a b: should be hf:OWNER/NAME"):
        prepare(["hf:a b"], tmp_path / "none")


def test_without_the_package_the_hub_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GPT2JaxError, match=r"pip install 'gpt2jax\[hub\]'"):
        prepare(["hf:us/ours"], tmp_path / "out")


LINES = [
    '{"text": "\\ud83d\\ude00é"}',
    '{"text": "a", "n": NaN}',
    '{"text": "a", "n": 1e999}',
    '{"text": "b", "text": "c"}',
]


def test_json_is_read_alike_with_orjson_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.orjson is not None
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(LINES), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    quick = [repr(extras.quick_record(line)) for line in LINES]
    assert quick[0] == repr(json.loads(LINES[0]))
    assert quick[1] == "None"  # What json takes and orjson does not is left to json.
    with_orjson = [document.text for document in read_documents(find_sources([str(tmp_path)]))]
    monkeypatch.setattr(extras, "orjson", None)
    without = [document.text for document in read_documents(find_sources([str(tmp_path)]))]
    assert with_orjson == without == [json.loads(line)["text"] for line in LINES] * 2


@pytest.mark.parametrize("with_orjson", [True, False])
@pytest.mark.parametrize("wrong", ["{", "{'a': 1}", "[1,]", "[1]"])
def test_what_is_no_json_object_is_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, with_orjson: bool
) -> None:
    if not with_orjson:
        monkeypatch.setattr(extras, "orjson", None)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + wrong, encoding="utf-8")
    said = "not JSON" if wrong != "[1]" else "list: should be an object with a key 'text'"
    with pytest.raises(GPT2JaxError, match=f"line 2: {said}"):
        list(read_documents(find_sources([str(tmp_path)])))
