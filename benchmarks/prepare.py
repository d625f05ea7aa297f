"""Preparing a corpus and reading it: speed against tiktoken alone, peak of memory, speed of the reader, waiting.

    python benchmarks/prepare.py speed --megabytes 200 --rounds 3
    python benchmarks/prepare.py memory --megabytes 200 2000
    python benchmarks/prepare.py reader
    python benchmarks/prepare.py waiting --steps 200

speed: tokens a second of `gpt2jax.data.prepare.prepare` over JSON lines, in one process and in one a core, and of
tiktoken's GPT-2 encoder as it comes, called on the same texts, in memory, in one process: in turns, since the machine's
speed drifts; also of that encoder with our pattern. Of the whole call (hashing the source, starting the processes,
joining and hashing the shards); of encoding alone, as the call itself says it; and for each second of CPU, the
processes' start included. memory: the command line over a
synthetic corpus; the peak of each process by the kernel's count (VmHWM, pages of files included), added up. reader:
batches of 32 windows of 1,024 tokens in random order out of shards that are in the page cache, by the process' own
seconds of CPU. waiting: how long the loop of `gpt2jax train` stands still for its next batch, with the quickstart's
model.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from gpt2jax import tokenizer
from gpt2jax.data.prepare import prepare

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
CORES = len(os.sched_getaffinity(0))


def documents(size: int) -> Iterator[str]:
    """Texts of about ``size`` bytes in all: paragraphs of Python's reference in other orders, no two the same, and of
    about 5,000 bytes each, as OpenWebText's are (40 GB of 8,013,769 documents)."""
    from pydoc_data.topics import topics

    paragraphs = [text for topic in topics.values() for text in topic.split("\n\n") if len(text) > 40]
    rng, written, number = random.Random(0), 0, 0
    while written < size:
        text = f"Document {number}.\n\n" + "\n\n".join(rng.choices(paragraphs, k=rng.randrange(1, 40)))
        written, number = written + len(text), number + 1
        yield text


def write_corpus(path: Path, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text in documents(size):
            file.write(json.dumps({"text": text}) + "\n")


def speed(given: argparse.Namespace, folder: Path) -> None:
    size = given.megabytes[0] * 10**6
    corpus, texts, ours = folder / "corpus.jsonl", list(documents(size)), tokenizer.gpt2()
    write_corpus(corpus, size)
    theirs = tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ours._mergeable_ranks, special_tokens=ours._special_tokens
    )

    def alone(encoding: tiktoken.Encoding) -> tuple[float, float]:
        began, busy = time.perf_counter(), _busy()
        count = sum(encoding.encode_to_numpy(text, disallowed_special=()).size for text in texts)
        return count / (time.perf_counter() - began), count / (_busy() - busy)

    def of_prepare(workers: int, number: int) -> tuple[float, float, float]:
        said: list[str] = []
        began, busy = time.perf_counter(), _busy()
        meta = prepare(
            [str(corpus)], folder / f"out{workers}-{number}", split="hash", workers=workers, progress=False,
            unit_bytes=2**22, say=said.append,
        )  # fmt: skip
        took, used = time.perf_counter() - began, _busy() - busy
        assert meta.validation is not None
        encoding_alone = re.search(r": ([\d,]+) a second", " ".join(said))
        assert encoding_alone is not None
        tokens = meta.train.tokens + meta.validation.tokens
        return tokens / took, float(encoding_alone[1].replace(",", "")), tokens / used

    rounds = []
    for number in range(given.rounds):
        base, base_cpu = alone(theirs)
        one, many = of_prepare(1, number), of_prepare(CORES, number)
        again, again_cpu = alone(theirs)
        base, base_cpu = (base + again) / 2, (base_cpu + again_cpu) / 2
        found = {"tiktoken": base, "our pattern": alone(ours)[0] / again}
        for name, processes, (whole, encoding_alone, by_cpu) in (("one", 1, one), ("all", CORES, many)):
            found[f"{name}, whole"] = whole / base / processes
            found[f"{name}, encoding"] = encoding_alone / base / processes
            found[f"{name}, CPU"] = by_cpu / base_cpu
        rounds.append(found)
        print({name: round(value, 3) for name, value in rounds[-1].items()}, file=sys.stderr)
    medians = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    print(json.dumps({"cores": CORES, "megabytes": given.megabytes[0], "rounds": given.rounds} | medians))


def _busy() -> float:
    """Seconds of CPU of this process and of its children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def memory(given: argparse.Namespace, folder: Path) -> None:
    for megabytes in given.megabytes:
        corpus, out = folder / f"{megabytes}.jsonl", folder / f"out{megabytes}"
        write_corpus(corpus, megabytes * 10**6)
        command = [sys.executable, "-m", "gpt2jax", "prepare", str(corpus), "--out", str(out), "--split", "hash"]
        began = time.perf_counter()
        peaks: dict[int, int] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            while worker.poll() is None:
                for process in (worker.pid, *_children(worker.pid)):
                    peaks[process] = max(peaks.get(process, 0), _peak(process))
                time.sleep(0.1)
            assert worker.returncode == 0
            assert worker.stdout is not None
            said = worker.stdout.read()
        took = time.perf_counter() - began
        size = corpus.stat().st_size
        corpus.unlink()
        print(said, file=sys.stderr)
        print(json.dumps({
            "corpus_mb": round(size / 1e6), "processes": len(peaks),
            "peaks_mib": sorted(round(peak / 2**20) for peak in peaks.values()),
            "sum_mib": round(sum(peaks.values()) / 2**20), "seconds": round(took, 1),
        }))  # fmt: skip


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _peak(process: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def reader(given: argparse.Namespace, folder: Path) -> None:
    # Not above: the processes of `speed` import this file, and these take seconds.
    from gpt2jax.data.mixture import open_mixture
    from gpt2jax.data.pipeline import batches, open_split
    from gpt2jax.data.reshape import reshape

    corpus = folder / "corpus.jsonl"
    write_corpus(corpus, given.megabytes[0] * 10**6)
    for name in ("a", "b"):
        prepare([str(corpus)], folder / name, split="hash", validation_fraction=0, progress=False)
    reshape(folder / "a", folder / "records", "arrayrecord", progress=False)
    mixture = [f"{folder / name}={weight}" for name, weight in (("a", 0.7), ("b", 0.3))]
    sources: dict[str, Callable[[], Any]] = {
        "nanogpt": lambda: open_split(folder / "a", "train", 1024, 50257)[0],
        "mixture": lambda: open_mixture(mixture, "train", 1024, 50257)[0],
        "arrayrecord": lambda: open_split(folder / "records", "train", 1024, 50257)[0],
    }
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(given.rounds):
        for name, opened in sources.items():
            windows = opened()
            assert windows is not None
            rows = batches(windows, seed=0, batch_size=32, start_step=0, shard_index=0, shard_count=1)
            for _ in range(20):
                next(rows)
            began, count = time.process_time(), 0
            while count < 400 * 32 * 1024:
                count += next(rows)[:, 1:].size
            found[name].append(count / (time.process_time() - began) / 1e6)
            rows.close()
    print(json.dumps({name: round(statistics.median(values), 1) for name, values in found.items()}))


def waiting(given: argparse.Namespace, folder: Path) -> None:
    from gpt2jax import config as settings
    from gpt2jax.train import loop

    waits: list[float] = []
    began_at: list[float] = []
    device_batches = loop.device_batches

    def timed(*args: Any) -> Iterator[Any]:
        rows = device_batches(*args)
        try:
            while True:
                began = time.perf_counter()
                batch = next(rows)
                waits.append(time.perf_counter() - began)
                began_at.append(began)
                yield batch
        finally:
            rows.close()

    with mock.patch.object(loop, "device_batches", timed):
        prepare(["pydoc"], folder / "data", tokenizer="bytes", progress=False)
        config = settings.load(QUICKSTART)
        training = dataclasses.replace(
            config.training, run_dir=str(folder / "run"), steps=given.steps, eval_interval=given.steps, eval_batches=1,
            checkpoint_interval=given.steps,
        )  # fmt: skip
        loop.train(dataclasses.replace(
            config, training=training, data=dataclasses.replace(config.data, path=str(folder / "data"))
        ))  # fmt: skip
    steps = np.diff(began_at)[10:]
    waited = np.array(waits)[11:]
    print(json.dumps({
        "steps": len(steps), "step_ms": round(1e3 * float(np.median(steps)), 2),
        "wait_ms": round(1e3 * float(np.median(waited)), 3), "longest_wait_ms": round(1e3 * float(waited.max()), 2),
        "share": round(float(waited.sum() / steps.sum()), 4),
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "reader", "waiting"))
    parser.add_argument("--megabytes", type=int, nargs="+", default=[64], help="of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of waiting")
    given = parser.parse_args()
    whats = {"speed": speed, "memory": memory, "reader": reader, "waiting": waiting}
    with tempfile.TemporaryDirectory() as folder:
        whats[given.what](given, Path(folder))


if __name__ == "__main__":
    main()
