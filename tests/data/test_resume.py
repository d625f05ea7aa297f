"""Work that is stopped, killed, shared among machines: at the end the same bytes, no document twice and none lost."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2jax.data import encode as encoding_of_units
from gpt2jax.data.clean import Cleaning
from gpt2jax.data.encode import Job
from gpt2jax.data.meta import Meta, read_meta
from gpt2jax.data.prepare import Order, prepare, prepare_share
from gpt2jax.data.shards import Format
from gpt2jax.data.verify import verify
from gpt2jax.errors import GPT2JaxError

UNIT = 2000


def corpus(folder: Path, documents: int = 300) -> list[str]:
    """JSON lines and a long text, of about 100 kB."""
    rng = random.Random(0)
    source = folder / "source"
    source.mkdir()
    words = ["alpha", "beta", "gamma", "delta", "ü", "\n"]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=rng.randrange(1, 60)))}) for _ in range(documents)]
    (source / "a.jsonl").write_text("\n".join(lines))
    (source / "b.txt").write_text(" ".join(rng.choices(words, k=4000)))
    return [str(source)]


def quiet(sources: list[str], out: Path, **arguments: Any) -> Meta:
    given: dict[str, Any] = {"tokenizer": "bytes", "progress": False, "split": "hash", "unit_bytes": UNIT}
    return prepare(sources, out, **(given | arguments))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in contents(folder).items()}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"split": "documents"},
        {"split": "tail", "validation_fraction": 0.3},
        {"split": "first", "validation_tokens": 777},
        {"split": "first", "validation_tokens": 55_000},  # In the text, which has several units.
        {"format": "llmc", "shard_tokens": 999},
        {"format": "llmc", "split": "tail", "validation_fraction": 0.1},
        {"tokenizer": "characters"},
        {"tokenizer": "gpt2"},
        {"cleaning": Cleaning(min_characters=30, exact_duplicates=True)},
    ],
    ids=str,
)
def test_the_size_of_units_changes_nothing(tmp_path: Path, arguments: dict[str, Any]) -> None:
    sources = corpus(tmp_path)
    wanted = quiet(sources, tmp_path / "a" / "out", unit_bytes=2**30, **arguments)
    for unit_bytes in (1111, 7000):
        folder = tmp_path / str(unit_bytes) / "out"
        assert quiet(sources, folder, unit_bytes=unit_bytes, **arguments) == wanted
        assert contents(folder) == contents(tmp_path / "a" / "out")
        assert [path.name for path in folder.parent.iterdir()] == ["out"]


class StopError(Exception):
    pass


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = corpus(tmp_path)
    quiet(sources, tmp_path / "wanted" / "out")

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise StopError

    with pytest.raises(StopError):
        quiet(sources, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.parts").is_dir()
    done, encode = list[str](), encoding_of_units.encode

    def noting(job: Any, key: str, *rest: Any) -> Any:
        done.append(key)
        return encode(job, key, *rest)

    monkeypatch.setattr("gpt2jax.data.work.encode", noting)
    said = list[str]()
    quiet(sources, tmp_path / "out", say=said.append)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted" / "out")
    before = int(said[0].split(": ")[1].split(" of ")[0])
    assert before > 10
    assert len(done) + before == len(set(done)) + before == int(said[0].split(" of ")[1].split()[0])
    assert not (tmp_path / ".out.parts").exists()


def test_other_settings_keep_what_they_share(tmp_path: Path) -> None:
    """Of a corpus in which one file was mended, the others' units are still good; how documents are held out is
    decided later than any of it."""
    sources, said = corpus(tmp_path), list[str]()
    bad = tmp_path / "source" / "z.jsonl"
    bad.write_text("no\n")
    with pytest.raises(GPT2JaxError, match=r"z\.jsonl: line 1: not JSON"):
        quiet(sources, tmp_path / "out")
    bad.write_text('{"text": "yes"}\n')
    quiet(sources, tmp_path / "out", validation_fraction=0.25, say=said.append)
    assert "units are done already" in said[0]
    quiet(sources, tmp_path / "fresh" / "out", validation_fraction=0.25)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh" / "out")


KILLED = """
import sys
from gpt2jax.data.prepare import prepare
if __name__ == "__main__":
    source, out, workers = sys.argv[1:]
    prepare([source], out, tokenizer="bytes", split="hash", unit_bytes=2000, workers=int(workers), progress=False)
"""


def processes_of(script: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(script) in (folder / "environ").read_text(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_nothing_is_lost_or_repeated(tmp_path: Path, workers: int) -> None:
    """SIGKILL at many moments, from the start to the renaming at the end; then the work is left to end."""
    sources = corpus(tmp_path)
    quiet(sources, tmp_path / "wanted" / "out")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    out = tmp_path / "killed" / "out"
    command = [sys.executable, str(script), *sources, str(out), str(workers)]
    environment = os.environ | {"KILLED": str(script)}
    rng, kills, units = random.Random(workers), 0, set[int]()
    parts = out.parent / ".out.parts"
    # After so many units more, and a little later each time: in the midst of reading, writing, joining.
    for more in (0, 1, 10, 10**9, 10**9) if workers == 1 else (1, 5, 10**9):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as worker:
            before = len(list(parts.glob("*.json")))
            limit = time.monotonic() + 60
            while worker.poll() is None and time.monotonic() < limit:
                if len(list(parts.glob("*.json"))) >= before + more or (parts / "joined").exists():
                    break
            time.sleep(rng.random() * 0.01)
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                kills += 1
        units.add(len(list(parts.glob("*.json"))))
    assert kills >= 3 - (workers > 1)
    assert len(units) >= 2  # It was killed at different stages.
    # Processes of its own end with it.
    limit = time.monotonic() + 30
    while processes_of(script) and time.monotonic() < limit:
        time.sleep(0.05)
    assert processes_of(script) == []
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert hashes(out) == hashes(tmp_path / "wanted" / "out")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_killed_process_left_of_a_small_corpus_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    left = tmp_path / ".out.parts.01234567"
    (left / "joined").mkdir(parents=True)
    quiet([str(tmp_path / "a.txt")], tmp_path / "out", split="tail")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out"]


def test_a_part_that_is_damaged_on_disk_is_made_again(tmp_path: Path) -> None:
    sources = corpus(tmp_path)
    quiet(sources, tmp_path / "wanted" / "out")
    order = Order(tuple(sources), tokenizer="bytes", split="hash")
    for share in range(2):
        prepare_share((share, 2), order, tmp_path / "out", unit_bytes=UNIT, progress=False)
    one, two, *_ = sorted((tmp_path / ".out.parts").glob("*.tokens"))
    one.write_bytes(one.read_bytes()[:-1])  # Cut short: seen by its size.
    raw = bytearray(two.read_bytes())
    raw[0] ^= 1
    two.write_bytes(raw)
    with pytest.raises(GPT2JaxError, match="damaged on disk, of 1 parts: start again"):
        quiet(sources, tmp_path / "out")
    quiet(sources, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted" / "out")


def test_signatures_that_are_damaged_on_disk_are_made_again(tmp_path: Path) -> None:
    sources, cleaning = corpus(tmp_path), Cleaning(near_duplicates=0.8)
    quiet(sources, tmp_path / "wanted" / "out", cleaning=cleaning)
    order = Order(tuple(sources), tokenizer="bytes", split="hash", cleaning=cleaning)
    prepare_share((0, 1), order, tmp_path / "out", unit_bytes=UNIT, progress=False)
    one, two, three, *_ = sorted((tmp_path / ".out.parts").glob("*.signatures"))
    one.write_bytes(one.read_bytes()[:-1])
    two.unlink()
    raw = bytearray(three.read_bytes())
    raw[-1] ^= 1
    three.write_bytes(raw)
    with pytest.raises(GPT2JaxError, match="damaged on disk, of 1 parts: start again"):
        quiet(sources, tmp_path / "out", cleaning=cleaning)
    quiet(sources, tmp_path / "out", cleaning=cleaning)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted" / "out")


@pytest.mark.parametrize("format", ["nanogpt", "llmc"])
def test_shares_of_several_machines_are_the_work_of_one(tmp_path: Path, format: Format) -> None:
    sources = corpus(tmp_path)
    quiet(sources, tmp_path / "wanted" / "out", format=format)
    order, said = Order(tuple(sources), tokenizer="bytes", split="hash", format=format), list[str]()
    for share in (2, 0):
        prepare_share((share, 3), order, tmp_path / "out", unit_bytes=UNIT, progress=False, say=said.append)
    assert said[2].startswith("shard 2/3: ")
    with pytest.raises(GPT2JaxError, match=r"merge: [\d,]+ of [\d,]+ units are not done, the first of them number 1:"):
        quiet(sources, tmp_path / "out", format=format, merge=True)
    assert not (tmp_path / "out").exists()
    prepare_share((1, 3), order, tmp_path / "out", unit_bytes=UNIT, progress=False)
    meta = quiet(sources, tmp_path / "out", format=format, merge=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted" / "out")
    prepare_share((1, 3), order, tmp_path / "out", unit_bytes=UNIT, progress=False, say=said.append)
    assert said[-1].endswith("nothing to do")
    assert read_meta(tmp_path / "out") == meta


@pytest.mark.parametrize("share", [(3, 3), (-1, 3), (0, 0)])
def test_shares_that_cannot_be(tmp_path: Path, share: tuple[int, int]) -> None:
    with pytest.raises(GPT2JaxError, match=r"shard: .*: should be from 0/"):
        prepare_share(share, Order(tuple(corpus(tmp_path))), tmp_path / "out")


@pytest.mark.parametrize("split", ["documents", "tail"])
def test_several_processes_make_what_one_makes(tmp_path: Path, split: str) -> None:
    sources, calls = corpus(tmp_path), list[tuple[int, int]]()
    quiet(sources, tmp_path / "one" / "out", split=split)
    given: dict[str, Any] = {"workers": 2, "unit_bytes": 9000}
    quiet(sources, tmp_path / "two" / "out", split=split, progress=lambda *call: calls.append(call), **given)
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 9000
    assert contents(tmp_path / "one" / "out") == contents(tmp_path / "two" / "out")


def test_a_mistake_in_a_process_of_its_own_is_one_line(tmp_path: Path) -> None:
    sources = corpus(tmp_path)
    (tmp_path / "source" / "z.jsonl").write_text("no\n")
    with pytest.raises(GPT2JaxError, match=r"z\.jsonl: line 1: not JSON"):
        quiet(sources, tmp_path / "out", workers=2)


def test_two_at_once_in_one_place_are_refused(tmp_path: Path) -> None:
    sources = corpus(tmp_path)

    def again(done: int, total: int) -> None:
        with pytest.raises(GPT2JaxError, match="another process prepares it now"):
            quiet(sources, tmp_path / "out")
        raise StopError

    with pytest.raises(StopError):
        quiet(sources, tmp_path / "out", progress=again)


def test_a_share_is_worked_at_beside_others_but_not_beside_all(tmp_path: Path) -> None:
    sources = corpus(tmp_path)
    order, calls = Order(tuple(sources), tokenizer="bytes", split="hash"), list[int]()

    def beside(done: int, total: int) -> None:
        if not calls:
            calls.append(done)
            for merge in (False, True):
                with pytest.raises(GPT2JaxError, match="another process prepares it now"):
                    quiet(sources, tmp_path / "out", merge=merge)
            with pytest.raises(GPT2JaxError, match="another process prepares it now"):
                prepare_share((0, 2), order, tmp_path / "out", unit_bytes=UNIT, progress=False)
            prepare_share((1, 2), order, tmp_path / "out", unit_bytes=UNIT, progress=False)

    prepare_share((0, 2), order, tmp_path / "out", unit_bytes=UNIT, progress=beside)
    assert calls
    assert not (tmp_path / "out").exists()

    def all_work(done: int, total: int) -> None:
        with pytest.raises(GPT2JaxError, match="another process prepares it now"):
            prepare_share((1, 2), order, tmp_path / "other", unit_bytes=UNIT, progress=False)
        raise StopError

    with pytest.raises(StopError):
        quiet(sources, tmp_path / "other", progress=all_work)
    quiet(sources, tmp_path / "out", merge=True)  # Twin: once they are done.


def test_held_out_documents_stay_when_more_come(tmp_path: Path) -> None:
    def held_out(split: str, more: int) -> set[bytes]:
        name = f"{split}{more}"
        source = tmp_path / f"{name}.jsonl"
        lines = [{"text": f"new {number}"} for number in range(more)] + [{"text": f"old {n}"} for n in range(400)]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        meta = quiet([str(source)], tmp_path / name, split=split)
        [shard] = meta.open_shards(tmp_path / name, "validation")
        return {text for text in np.array(shard.memmap()).astype(np.uint8).tobytes().split(b"\0") if b"old" in text}

    before, after = held_out("hash", 0), held_out("hash", 50)
    assert 20 < len(before) < 60
    assert before == after
    assert held_out("documents", 0) != held_out("documents", 51)  # Twin.


def test_another_seed_holds_out_others(tmp_path: Path) -> None:
    sources = corpus(tmp_path)
    metas = [quiet(sources, tmp_path / f"{seed}", seed=seed) for seed in (0, 1, 2)]
    assert len({meta.index and meta.index["val.bin"].sha256 for meta in metas}) == 3


def test_sources_that_are_held_out_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("train")
    (tmp_path / "b.txt").write_text("held")
    meta = quiet([str(tmp_path / "a.txt")], tmp_path / "out", validation_sources=[str(tmp_path / "b.txt")])
    assert (meta.split, meta.train.bytes, meta.validation and meta.validation.bytes) == ("given", 5, 4)
    with pytest.raises(GPT2JaxError, match="not made from these"):
        quiet([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tmp_path / "out", validation_fraction=0)


def test_other_files_held_out_are_another_order(tmp_path: Path) -> None:
    for name, files in {"one": "a", "two": "bc", "more": "ab", "last": "c"}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / f"{file}.txt").write_text(file)
    first, second, said = str(tmp_path / "one"), str(tmp_path / "two"), list[str]()
    quiet([first], tmp_path / "out", validation_sources=[second])
    quiet([first], tmp_path / "out", validation_sources=[second], say=said.append)
    assert said[-1].endswith("nothing to do")  # Twin.
    with pytest.raises(GPT2JaxError, match="not made from these"):
        quiet([str(tmp_path / "more")], tmp_path / "out", validation_sources=[str(tmp_path / "last")])
    order = Order((str(tmp_path / "more"),), tokenizer="bytes", validation_sources=(str(tmp_path / "last"),))
    with pytest.raises(GPT2JaxError, match="not made from these"):
        prepare_share((0, 1), order, tmp_path / "out", progress=False)


def test_done_again_it_says_so_and_does_nothing(tmp_path: Path) -> None:
    sources, said = corpus(tmp_path), list[str]()
    quiet(sources, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    quiet(sources, tmp_path / "out", say=said.append)
    assert said == [f"{tmp_path / 'out'}: was made from these sources by these settings: nothing to do"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_the_disk_that_it_needs_is_said_and_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, said = corpus(tmp_path), list[str]()
    quiet(sources, tmp_path / "out", tokenizer="gpt2", say=said.append)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.bin"))
    estimate = float(said[0].split("takes about ")[1].split(" MB")[0]) * 1e6
    assert size < estimate + 1e5
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(GPT2JaxError, match=r"full: needs [\d,]+ bytes of disk: 1,000 are free"):
        quiet(sources, tmp_path / "full")
    assert not (tmp_path / "full").exists()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_an_empty_first_file_is_no_hindrance(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "b.txt").write_text("held in a file after it")
    wanted = quiet([str(source)], tmp_path / "wanted", split="tail")
    (source / name).write_text("")
    meta = quiet([str(source)], tmp_path / "out", split="tail")
    assert (meta.train, meta.validation) == (wanted.train, wanted.validation)
    (source / "b.txt").write_text("")
    with pytest.raises(GPT2JaxError, match="hold no text"):  # Twin: nothing at all is refused.
        quiet([str(source)], tmp_path / "none", split="tail")


@pytest.mark.parametrize("format", ["nanogpt", "llmc"])
@pytest.mark.parametrize("split", ["documents", "tail"])
def test_a_text_whose_end_cannot_be_cut_ends_all_the_same(tmp_path: Path, format: Format, split: str) -> None:
    """The last unit by size would be empty: the end of the text is in the one before it."""
    (tmp_path / "a.txt").write_text("words " * 40 + "x" * 600)
    (tmp_path / "b.txt").write_text("another text")
    sources = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    more: dict[str, Any] = {"format": format, "split": split, "validation_fraction": 0 if split == "documents" else 0.1}
    wanted = quiet(sources, tmp_path / "whole" / "out", unit_bytes=2**20, **more)
    assert wanted.train.documents + (wanted.validation.documents if wanted.validation else 0) == 2 + (split == "tail")
    assert quiet(sources, tmp_path / "cut" / "out", unit_bytes=200, **more) == wanted
    assert contents(tmp_path / "cut" / "out") == contents(tmp_path / "whole" / "out")
    assert verify(tmp_path / "cut" / "out", progress=False)


@pytest.mark.parametrize("wanted", [100, 254, 255, 700, 999])
def test_the_first_tokens_end_in_any_unit_of_a_text(tmp_path: Path, wanted: int) -> None:
    (tmp_path / "a.txt").write_text("word " * 200)
    more: dict[str, Any] = {"split": "first", "validation_tokens": wanted}
    whole = quiet([str(tmp_path / "a.txt")], tmp_path / "whole" / "out", **more)
    assert quiet([str(tmp_path / "a.txt")], tmp_path / "cut" / "out", unit_bytes=250, **more) == whole
    assert contents(tmp_path / "cut" / "out") == contents(tmp_path / "whole" / "out")
    assert (whole.train.documents, whole.validation and whole.validation.documents) == (1, 1)
    assert whole.validation is not None
    assert (whole.validation.tokens, whole.train.tokens) == (wanted, 1001 - wanted)
    assert verify(tmp_path / "cut" / "out", progress=False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "documents"},
        {"split": "hash", "format": "llmc"},
        {"split": "tail", "validation_fraction": 0.3},
        {"split": "first", "validation_tokens": 1234, "format": "llmc"},
        {"cleaning": Cleaning(min_characters=20, exact_duplicates=True, near_duplicates=0.8)},
        {"tokenizer": "characters"},
    ],
    ids=str,
)
def test_small_files_share_a_unit_and_nothing_else_changes(
    tmp_path: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rng, joined = tmp_path / "source", random.Random(1), list[int]()
    source.mkdir()
    for number in range(120):
        text = " ".join(rng.choices(["alpha", "beta", "ü"], k=rng.choice([0, 1, 9, 40])))
        name, raw = f"{number:03d}.txt", text
        if number % 3 == 1:
            name, raw = f"{number:03d}.jsonl", "".join(json.dumps({"text": part}) + "\n" for part in (text, "more"))
        (source / name).write_text(raw)
    (source / "060.txt").write_text("long " * 2000)  # Of several units, between small ones.

    def units(name: str) -> Meta:
        def noting(done: int, total: int) -> None:
            joined[:] = [len(list(tmp_path.glob(f"{name}/.out.parts*/*.json")))]

        return quiet([str(source)], tmp_path / name / "out", unit_bytes=3000, progress=noting, **arguments)

    meta, together = units("together"), joined.pop()
    monkeypatch.setattr("gpt2jax.data.jobs.grouped", lambda pieces, unit_bytes: [Job((piece,)) for piece in pieces])
    assert units("alone") == meta
    assert contents(tmp_path / "together" / "out") == contents(tmp_path / "alone" / "out")
    assert 3 * together < joined.pop()  # Of files that are alike, one is kept when they are alone.


@pytest.mark.parametrize("name", ["gpt2", "characters"])
def test_a_long_text_has_the_same_hash_however_it_is_cut(tmp_path: Path, name: str) -> None:
    """Once as it is, in several units, and once compressed, in one."""
    text = " ".join(random.Random(2).choices(["alpha", "beta", "ü", "\n"], k=2000))
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text(text, newline="")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(text.encode() + b"!"))  # Twin: another text.
    sources, more = [str(tmp_path / "[a-d].*")], {"tokenizer": name, "validation_fraction": 0}
    for format in ("nanogpt", "llmc"):
        meta = quiet(sources, tmp_path / format, format=format, cleaning=Cleaning(exact_duplicates=True), **more)
        assert (meta.dropped, meta.train.documents) == ({"exact duplicates": 1}, 3)


def test_a_long_text_is_held_out_or_not_however_it_is_cut(tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text("".join(json.dumps({"text": f"short{n}"}) + "\n" for n in range(50)))
    held = set()
    for number in range(12):
        text = tmp_path / f"{number}.txt"
        text.write_text(f"{number} " * 500)
        sources, cut = [str(tmp_path / "short.jsonl"), str(text)], tmp_path / f"cut{number}" / "out"
        whole = quiet(sources, tmp_path / f"whole{number}" / "out", unit_bytes=2**20, validation_fraction=0.5)
        assert quiet(sources, cut, unit_bytes=300, validation_fraction=0.5) == whole
        held.add(b" " in (cut / "val.bin").read_bytes())
    assert held == {True, False}


def test_a_duplicate_of_several_units_is_left_out_whole(tmp_path: Path) -> None:
    for name, text in {"a": "word " * 300, "b": "word " * 300, "c": "held out"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    sources, held = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], [str(tmp_path / "c.txt")]
    more: dict[str, Any] = {"cleaning": Cleaning(exact_duplicates=True), "validation_sources": held}
    wanted = quiet(sources, tmp_path / "whole" / "out", unit_bytes=2**20, **more)
    assert (wanted.train.documents, wanted.train.tokens) == (1, 1501)
    assert quiet(sources, tmp_path / "cut" / "out", unit_bytes=200, **more) == wanted
    tail = quiet([*sources, *held], tmp_path / "tail", unit_bytes=200, split="tail", cleaning=more["cleaning"])
    assert tail.train.tokens == 2709  # Twin: the cut makes another document of the second.
