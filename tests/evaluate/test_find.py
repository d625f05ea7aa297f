"""A data set's file is found in every form, and what is not it is named as such."""

import dataclasses
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import catalog as catalog_module
from gpt2jax.evaluate import identity
from gpt2jax.evaluate.catalog import Contents, catalog
from gpt2jax.evaluate.find import Found, Missing, find
from gpt2jax.evaluate.readers.cbt import read_cbt
from gpt2jax.evaluate.readers.hellaswag import read_hellaswag
from gpt2jax.evaluate.units import pages
from tests.evaluate.samples import CBT, HELLASWAG, HELLASWAG_ROWS, LAMBADA, LAMBADA_TEXTS, PTB, WIKITEXT
from tests.helpers import shared_data

OTHER = WIKITEXT.replace(b"<unk>", b"number")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog with small files' sizes and hashes in the place of the real ones."""
    entries = dict(catalog())
    for name, data in (("wikitext2", WIKITEXT), ("wikitext103", OTHER), ("ptb", PTB), ("lambada", LAMBADA)):
        contents = Contents(size=len(data), sha256=sha(data), lines=data.count(b"\n"))
        entries[name] = dataclasses.replace(entries[name], contents=contents)
    for module in (catalog_module, identity):
        monkeypatch.setattr(module, "catalog", lambda: entries)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def get(name: str, data: Path, **options: bool) -> Found:
    found = find(name, data, **options)
    assert isinstance(found, Found), str(found)
    return found


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name",
    ["wiki.test.tokens", "wikitext-2/wiki.test.tokens", "a/b/wikitext-2/wiki.test.tokens", "wikitext2.test.tokens"],
)
def test_the_file_itself(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, WIKITEXT)
    found = get("wikitext2", tmp_path)
    assert (found.path, found.member, found.data, found.verified, found.notes) == (path, None, WIKITEXT, True, ())
    assert found.where == str(path)
    if name == "wiki.test.tokens":  # Another data set's name too, told by its hash.
        other = find("wikitext103", tmp_path)
        assert isinstance(other, Missing)
        assert str(other).endswith("; wiki.test.tokens is another text: wikitext2 (WikiText-2, test)")


@pytest.mark.usefixtures("small")
def test_two_data_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path / "wiki.test.tokens", OTHER)
    put(tmp_path / "wikitext-2" / "wiki.test.tokens", WIKITEXT)
    assert get("wikitext2", tmp_path).data == WIKITEXT
    assert get("wikitext103", tmp_path).data == OTHER


@pytest.mark.usefixtures("small")
def test_folders_that_are_too_deep_or_hidden_are_not_searched(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b" / "c" / "d" / "e" / "ptb.test.txt", PTB)
    put(tmp_path / ".cache" / "ptb.test.txt", PTB)
    assert isinstance(find("ptb", tmp_path), Missing)
    put(tmp_path / "a" / "b" / "c" / "d" / "ptb.test.txt", PTB)
    assert get("ptb", tmp_path).verified


@pytest.mark.usefixtures("small")
def test_archives_are_read_without_unpacking(tmp_path: Path) -> None:
    put(
        tmp_path / "wikitext-2-v1.zip",
        zipped({"wikitext-2/wiki.train.tokens": b"x", "wikitext-2/wiki.test.tokens": WIKITEXT}),
    )
    put(
        tmp_path / "simple-examples.tgz",
        tarred({"./simple-examples/data/ptb.test.txt": PTB, "./simple-examples/README": b"x"}),
    )
    zip_found, tar_found = get("wikitext2", tmp_path), get("ptb", tmp_path)
    assert (zip_found.data, zip_found.member, zip_found.verified) == (WIKITEXT, "wikitext-2/wiki.test.tokens", True)
    assert zip_found.where.endswith("wikitext-2-v1.zip: wikitext-2/wiki.test.tokens")
    assert (tar_found.data, tar_found.verified) == (PTB, True)
    assert {path.name for path in tmp_path.rglob("*")} == {"wikitext-2-v1.zip", "simple-examples.tgz"}


@pytest.mark.usefixtures("small")
def test_parquet_copies_give_the_originals_bytes(tmp_path: Path) -> None:
    lines = [line + "\n" for line in WIKITEXT.decode().split("\n")[:-1]]
    parquet(
        tmp_path / "wikitext-2-v1" / "test-00000-of-00001.parquet",
        [{"text": line if line.strip() else ""} for line in lines],
    )
    parquet(
        tmp_path / "ptb_text_only" / "test-00000-of-00001.parquet",
        [{"sentence": line.strip()} for line in PTB.decode().splitlines()],
    )
    parquet(tmp_path / "lambada_openai" / "test-00000-of-00001.parquet", [{"text": text} for text in LAMBADA_TEXTS])
    for name, data in (("wikitext2", WIKITEXT), ("ptb", PTB), ("lambada", LAMBADA)):
        found = get(name, tmp_path)
        assert (found.data, found.verified, found.notes) == (data, True, ("read from a Parquet copy",))


def test_parquet_copies_that_lost_something_say_so(tmp_path: Path) -> None:
    items = read_cbt(CBT, "x")
    parquet(
        tmp_path / "CN" / "validation-00000-of-00001.parquet",
        [
            {
                "sentences": list(item.context),
                "question": item.query,
                "answer": item.candidates[item.answer],
                "options": list(item.candidates),
            }
            for item in items
        ],
    )
    parquet(
        tmp_path / "hellaswag" / "validation-00000-of-00001.parquet",
        [row | {"label": str(row["label"])} for row in HELLASWAG_ROWS],
    )
    for name in ("cbt-cn", "hellaswag"):
        found = get(name, tmp_path)
        assert not found.verified
        assert found.notes[1] == "its bytes are not the original's, whose hash says nothing of it"
    lines = [dataclasses.replace(item, line=0) for item in read_cbt(get("cbt-cn", tmp_path).data, "x")]
    assert lines == [dataclasses.replace(item, line=0) for item in items]
    assert read_hellaswag(get("hellaswag", tmp_path).data, "x") == read_hellaswag(HELLASWAG, "x")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "CN" / "validation-00000-of-00001.parquet", b"PAR1")
    with pytest.raises(GPT2JaxError, match="not a Parquet file with sentences, question, answer, options"):
        find("cbt-cn", tmp_path)
    parquet(tmp_path / "CN" / "validation-00000-of-00001.parquet", [{"text": "x"}])
    with pytest.raises(GPT2JaxError, match=r"(columns none: should hold|not a Parquet file with) sentences"):
        find("cbt-cn", tmp_path)
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GPT2JaxError, match=r"needs pyarrow: pip install 'gpt2jax\[eval\]'"):
        find("cbt-cn", tmp_path)


@pytest.mark.usefixtures("small")
def test_a_wrong_file_is_named_with_hash_size_and_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "ptb.test.txt", PTB + b" one more line \n")
    with pytest.raises(GPT2JaxError) as caught:
        find("ptb", tmp_path)
    size = len(PTB)
    assert str(caught.value) == (
        f"{path}: not Penn Treebank as Mikolov prepared it, test: sha256 {sha(path.read_bytes())}, {size + 16} bytes, "
        f"3 lines: should be sha256 {sha(PTB)}, {size} bytes, 2 lines"
    )
    changed = get("ptb", tmp_path, allow_changed=True)
    assert not changed.verified
    assert changed.notes[0].startswith(f"changed: sha256 {changed.sha256}, ")
    put(tmp_path / "simple-examples.tgz", tarred({"simple-examples/data/ptb.test.txt": PTB}))
    assert get("ptb", tmp_path).verified  # The right one is taken, whatever else there is.


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PTB.replace(b"\n", b"\r\n"), "it is the right text with Windows line ends"),
        (b"\xef\xbb\xbf" + PTB, "it is the right text after a byte order mark"),
        (PTB + b"\n\n", "it is the right text with another number of newlines at its end"),
        (PTB[:-1], "it is the right text with another number of newlines at its end"),
        (b"".join(line.strip() + b"\n" for line in PTB.splitlines()), "without the spaces around its lines"),
        (b"", "it is empty"),
        (PTB[:20], f"20 bytes, 0 lines: should be sha256 {sha(PTB)}, {len(PTB)} bytes, 2 lines$"),
    ],
)
def test_what_was_done_to_a_file_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    put(tmp_path / "ptb.test.txt", data)
    with pytest.raises(GPT2JaxError, match=message):
        find("ptb", tmp_path)


def test_where_no_hash_is_known_the_file_is_taken_and_its_hash_said(tmp_path: Path) -> None:
    put(tmp_path / "CBTest" / "data" / "cbtest_CN_valid_2000ex.txt", CBT)
    found = get("cbt-cn", tmp_path)
    assert (found.verified, found.notes) == (False, (f"hash not known; sha256 is {sha(CBT)}",))
    put(tmp_path / "lambada_test_plain_text.txt", b"one line\n")
    with pytest.raises(GPT2JaxError, match="1 lines: should be 5,153"):
        find("lambada-plain", tmp_path)


def test_an_archive_is_verified_where_its_contents_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = tarred({"CBTest/data/cbtest_CN_valid_2000ex.txt": CBT})
    path = put(tmp_path / "CBTest.tgz", body)
    with pytest.raises(GPT2JaxError, match=f"the archive has sha256 {sha(body)}, .*: should be sha256 932df0ca"):
        find("cbt-cn", tmp_path)
    assert get("cbt-cn", tmp_path, allow_changed=True).data == CBT
    entries = dict(catalog())
    releases = tuple(
        dataclasses.replace(release, sha256=sha(body)) if release.form == "tar" else release
        for release in entries["cbt-cn"].releases
    )
    entries["cbt-cn"] = dataclasses.replace(entries["cbt-cn"], releases=releases)
    monkeypatch.setattr(catalog_module, "catalog", lambda: entries)
    found = get("cbt-cn", tmp_path)
    assert (found.path, found.data, found.verified) == (path, CBT, True)


@pytest.mark.parametrize(
    ("name", "data_set", "data", "message"),
    [
        ("wikitext-2-v1.zip", "wikitext2", b"PK\x03\x04 cut", "damaged: not a zip"),
        ("wikitext-2-v1.zip", "wikitext2", zipped({"other": b"x"}), "holds no wikitext-2/wiki.test.tokens"),
        ("CBTest.tgz", "cbt-cn", gzip.compress(b"x" * 2000, mtime=0), "damaged: not a tar"),
        ("CBTest.tgz", "cbt-cn", b"<html>", "damaged: not a tar"),
        ("CBTest.tgz", "cbt-cn", tarred({"CBTest/data/a": CBT})[:-200], "damaged: not a tar"),
        ("CBTest.tgz", "cbt-cn", tarred({"CBTest/data/a": b"x"}), "holds no CBTest/data/cbtest_CN"),
    ],
    # Not of their contents, in which gzip writes the time: processes that run tests must agree on their names.
    ids=["cut zip", "zip without it", "no tar in it", "a page", "cut tar", "tar without it"],
)
def test_damaged_archives_are_one_line(tmp_path: Path, name: str, data_set: str, data: bytes, message: str) -> None:
    path = put(tmp_path / name, data)
    with pytest.raises(GPT2JaxError, match=message) as caught:
        find(data_set, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_missing_says_what_to_get_and_where(tmp_path: Path) -> None:
    put(tmp_path / "wikitext-2-raw" / "wiki.test.raw", b" \n = A page = \n")
    missing = find("wikitext2", tmp_path)
    assert isinstance(missing, Missing)
    line = str(missing)
    assert "\n" not in line
    assert "should be one of wikitext-2/wiki.test.tokens, " in line
    assert "gpt2jax evaluate --download wikitext2 gets it (4.5 MB) from https://s3.amazonaws.com/" in line
    assert "wikitext-2-raw/wiki.test.raw is another text: wikitext-raw (WikiText raw, test)" in line
    assert "not public: the Penn Treebank is the LDC's" in str(find("ptb", tmp_path))
    assert "--download winobias gets it" in str(find("winobias-pro1", tmp_path))
    with pytest.raises(GPT2JaxError, match=r"nowhere: no such folder"):
        find("ptb", tmp_path / "nowhere")


def test_the_real_files_in_every_form(tmp_path: Path) -> None:
    """Hashes of the catalog on the files themselves, packed as their publishers do."""
    folder = shared_data("wikitext2.test.tokens").parent
    data = (folder / "wikitext2.test.tokens").read_bytes()
    assert get("wikitext2", folder).verified
    put(tmp_path / "wikitext-2-v1.zip", zipped({"wikitext-2/wiki.test.tokens": data}))
    assert get("wikitext2", tmp_path).verified
    lines = [line + "\n" for line in data.decode().split("\n")[:-1]]
    rows = [{"text": line if line.strip() else ""} for line in lines]
    parquet(tmp_path / "p" / "wikitext-2-v1" / "test-00000-of-00001.parquet", rows)
    assert get("wikitext2", tmp_path / "p").verified
    put(tmp_path / "crlf" / "wiki.test.tokens", data.replace(b"\n", b"\r\n"))
    with pytest.raises(GPT2JaxError, match=r"1,260,807 bytes, 4,358 lines: should be .*; it is the right .*Windows"):
        find("wikitext2", tmp_path / "crlf")
    assert len(pages(data.decode())) == 62


def test_the_real_lambada_comes_back_from_its_texts(tmp_path: Path) -> None:
    folder = shared_data("lambada_test.jsonl").parent
    found = get("lambada", folder)
    assert found.verified
    rows = [{"text": json.loads(line)["text"]} for line in found.data.decode().splitlines()]
    parquet(tmp_path / "lambada_openai" / "test-00000-of-00001.parquet", rows)
    assert get("lambada", tmp_path).verified
    rows[7]["text"] += " "
    parquet(tmp_path / "lambada_openai" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(GPT2JaxError, match="1,819,753 bytes, 5,153 lines: should be sha256 4aa8d02c"):
        find("lambada", tmp_path)
