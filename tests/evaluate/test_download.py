"""Downloads of data sets: from the publishers' addresses in turn or a mirror, checked, and found afterwards."""

import dataclasses
import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2jax import fetch
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import catalog as catalog_module
from gpt2jax.evaluate import identity
from gpt2jax.evaluate.catalog import Contents, catalog
from gpt2jax.evaluate.download import download
from gpt2jax.evaluate.find import Found, Missing, find
from tests.evaluate.samples import LAMBADA, WIKITEXT, WINOBIAS_ANTI, WINOBIAS_PRO, WINOGENDER
from tests.evaluate.test_find import put, sha, zipped
from tests.server import Server, serving

ZIP = zipped({"wikitext-2/wiki.test.tokens": WIKITEXT})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves small files under the catalog's names; the catalog knows their sizes and hashes, and its addresses."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    bodies = {"lambada": LAMBADA, "wikitext2": ZIP, "winogender": WINOGENDER} | {
        f"winobias-{kind}{number}": body + f"{number}".encode()
        for number in (1, 2)
        for kind, body in (("pro", WINOBIAS_PRO), ("anti", WINOBIAS_ANTI))
    }
    with serving() as server:
        entries = dict(catalog())
        for name, body in bodies.items():
            entry = entries[name]
            assert entry.public is not None
            file = Path(entry.public.target).name
            server.files[f"/{file}"] = body
            urls = (f"{server.url}/gone/{file}", f"{server.url}/{file}")
            release = dataclasses.replace(entry.public, urls=urls)
            if release.sha256:
                release = dataclasses.replace(release, size=len(body), sha256=sha(body))
            releases = tuple(release if one is entry.public else one for one in entry.releases)
            contents = {"lambada": LAMBADA, "wikitext2": WIKITEXT}.get(name)
            entries[name] = dataclasses.replace(
                entry,
                releases=releases,
                contents=Contents(size=len(contents), sha256=sha(contents)) if contents else Contents(),
            )
        for module in (catalog_module, identity):
            monkeypatch.setattr(module, "catalog", lambda: entries)
        yield server


def get(name: str, data: Path) -> Found:
    found = find(name, data)
    assert isinstance(found, Found), str(found)
    return found


def test_a_data_set_is_downloaded_once_and_found(server: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = download("lambada", data, progress=False)
    assert done.paths == (data / "lambada_test.jsonl",)
    assert done.origins == (f"lambada: {done.paths[0]}: from {server.url}/lambada_test.jsonl; licence: not stated",)
    assert get("lambada", data).verified
    assert [path for path, _ in server.requests] == ["/gone/lambada_test.jsonl", "/lambada_test.jsonl"]
    again = download("lambada", data, offline=True)
    assert again.origins == (f"lambada: {done.paths[0]}: was there",)
    assert len(server.requests) == 2
    assert {path.name for path in data.iterdir()} == {"lambada_test.jsonl", ".download.lock"}


def test_an_archive_stays_packed_and_a_name_may_be_several_files(server: Server, tmp_path: Path) -> None:
    assert download("wikitext2", tmp_path, progress=False).paths == (tmp_path / "wikitext-2-v1.zip",)
    assert get("wikitext2", tmp_path).data == WIKITEXT
    assert len(download("winobias", tmp_path, progress=False).paths) == 4
    assert get("winobias-anti2", tmp_path).data == WINOBIAS_ANTI + b"2"
    done = download("winogender", tmp_path, progress=False)
    assert done.paths == (tmp_path / "winogender" / "all_sentences.tsv",)  # Its bare name says nothing.
    assert get("winogender", tmp_path).notes == (f"hash not known; sha256 is {sha(WINOGENDER)}",)


def test_a_mirror_is_asked_alone(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download("lambada", tmp_path / "a", mirror=f"{server.url}/", progress=False)
    monkeypatch.setenv("GPT2JAX_MIRROR_DATA", server.url)
    download("lambada", tmp_path / "b", progress=False)
    assert [path for path, _ in server.requests] == ["/lambada_test.jsonl"] * 2
    with pytest.raises(GPT2JaxError, match="should begin with http:// or https://"):
        download("lambada", tmp_path / "c", mirror="example.org")


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "500", "500"]
    with pytest.raises(GPT2JaxError, match=r"503|500 .*\(3 attempts\); run it again to go on from there"):
        download("lambada", tmp_path, mirror=server.url, progress=False)
    assert isinstance(find("lambada", tmp_path), Missing)  # Half a file is none.
    server.requests.clear()
    download("lambada", tmp_path, mirror=server.url, progress=False)
    assert server.requests == [("/lambada_test.jsonl", f"bytes={len(LAMBADA) // 2}-")]
    assert get("lambada", tmp_path).data == LAMBADA


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["page"], "the server sent a web page instead of the file"),
        (["other bytes"], f"sha256 .*: should be {sha(LAMBADA)}"),
        (["short"], f"{len(LAMBADA) - 1} bytes: should be {len(LAMBADA)}"),
        (["404"], "the server answered 404"),
    ],
)
def test_what_is_not_the_file_is_one_line_and_no_file(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    server.faults = faults
    with pytest.raises(GPT2JaxError, match=message) as caught:
        download("lambada", tmp_path, mirror=server.url, progress=False)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {".download.lock"}
    download("lambada", tmp_path, mirror=server.url, progress=False)


def test_when_every_address_fails_each_is_named(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(GPT2JaxError, match=r"/gone/lambada_test.jsonl: .* 404 .*; http\S+/lambada_test.jsonl: .* 404"):
        download("lambada", tmp_path, progress=False)


def test_two_downloads_at_once_become_one(server: Server, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=download, args=("lambada", tmp_path), kwargs={"mirror": server.url, "progress": False})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path for path, _ in server.requests] == ["/lambada_test.jsonl"]
    assert hashlib.sha256((tmp_path / "lambada_test.jsonl").read_bytes()).hexdigest() == sha(LAMBADA)


def test_what_cannot_be_downloaded(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GPT2JaxError, match="ptb: not public, so it can't be downloaded: the Penn Treebank is"):
        download("ptb", tmp_path)
    with pytest.raises(GPT2JaxError, match=r"data set: 'lambda': unknown \(nearest: lambada\)"):
        download("lambda", tmp_path)
    monkeypatch.setenv("GPT2JAX_OFFLINE", "1")
    with pytest.raises(GPT2JaxError, match=r"lambada: is not in .*, and downloads are off"):
        download("lambada", tmp_path)
    monkeypatch.delenv("GPT2JAX_OFFLINE")
    put(tmp_path / "lambada_test.jsonl", LAMBADA + b"\n")
    with pytest.raises(GPT2JaxError, match="another number of newlines"):  # It isn't overwritten.
        download("lambada", tmp_path)
    assert server.requests == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(GPT2JaxError, match="bytes of disk: 10 are free"):
        download("wikitext2", tmp_path, mirror=server.url, progress=False)
