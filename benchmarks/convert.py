"""Memory and time of converting weights of every size, and the speed of reading them beside `cat` of the same file.

    python benchmarks/convert.py                         # all four sizes; needs 20 GB of disk
    python benchmarks/convert.py --sizes gpt2 --rounds 3

Writes benchmarks/results/convert.md. Weights are random. Every conversion is a `gpt2jax convert` of its own, watched
from outside: its peak is the most anonymous memory it held, that is without pages of mapped files, which the system
takes back when it needs them. Before each reading the file is put out of the system's cache, for `cat` as for us.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Parameter
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.layout import layer_shape
from gpt2jax.weights.weights import Format, Origin, Weights

RESULTS = Path(__file__).parent / "results" / "convert.md"

# Each reads what an earlier one wrote; the first source is written by this script.
CONVERSIONS: tuple[tuple[str, Format], ...] = (
    ("huggingface", "orbax"),
    ("orbax", "huggingface"),
    ("orbax", "openai"),
    ("openai", "orbax"),
    ("orbax", "nanogpt"),
    ("nanogpt", "orbax"),
    ("orbax", "llmc"),
    ("llmc", "orbax"),
)
READINGS = {
    "huggingface": "model.safetensors",
    "openai": "model.ckpt.data-00000-of-00001",
    "nanogpt": "ckpt.pt",
    "llmc": "",
}
# Rounds of: seconds of `cat`, of loading, and of touching as much fresh memory as the file has bytes.
READ = """
import os, subprocess, sys, time
import jax
import numpy as np
from gpt2jax.config import MeshConfig
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params

source, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
place = Partition(make_mesh(MeshConfig(), jax.devices()[:1]))


def evict():
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def load():
    jax.block_until_ready(load_params(open_weights(source), place))


def touch():
    np.empty(os.path.getsize(path), np.uint8)[::4096] = 1


for _ in range(rounds):
    evict()
    cat = seconds(lambda: subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL))
    evict()
    print(cat, seconds(load), seconds(touch), flush=True)
"""


class Random(Weights):
    """Numbers that no two layers share, made when they are read."""

    def __init__(self, config: ModelConfig) -> None:
        self.origin = Origin("random", "random", config, tokenizer.gpt2())

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        seed = [layer, *parameter.path.encode()]
        return np.random.default_rng(seed).standard_normal(layer_shape(parameter, self.config), dtype=np.float32)


def watch(command: list[str]) -> tuple[float, float]:
    """Seconds that a command took and the most anonymous memory (GB) that it held."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        held = [int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem"))]
        peak = max(peak, sum(held))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, peak * 1024 / 1e9


def read_speeds(source: Path, file: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """GB/s of `cat` of a file, of loading ``source``, and of touching fresh memory, in turn."""
    os.sync()  # What has not been written yet cannot be put out of the system's cache.
    command = [sys.executable, "-c", READ, str(source), str(file), str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [[file.stat().st_size / 1e9 / float(cell) for cell in line.split()] for line in done.stdout.splitlines()]
    cats, ours, touches = (list(column) for column in zip(*rows, strict=True))
    return cats, ours, touches


def place(root: Path, form: str) -> Path:
    return root / (f"{form}.bin" if form == "llmc" else form)


def measure(name: str, root: Path, rounds: int) -> tuple[list[str], list[str]]:
    config = ModelConfig(**PRESETS[name])  # type: ignore[arg-type]
    root.mkdir()
    convert(Random(config), root / "huggingface", "huggingface")
    size = 4 * parameters.count(config) / 1e9
    largest = 4 * max(np.prod(parameters.shape(row, config)) for row in parameters.TABLE) / 1e9
    conversions, readings = [], []
    for source, to in CONVERSIONS:
        target = place(root, to)
        shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-m", "gpt2jax", "convert", str(place(root, source)), str(target), "--to", to]
        seconds, peak = watch(command)
        row = f"| {name} | {source} | {to} | {size:.2f} | {largest:.2f} | {peak:.2f} | {seconds:.1f} |"
        print(row, flush=True)
        conversions.append(row)
        if source in READINGS and to == "orbax":
            path = place(root, source)
            cats, ours, touches = read_speeds(path, path / READINGS[source] if READINGS[source] else path, rounds)
            ratios = [a / b for a, b in zip(ours, cats, strict=True)]
            row = (
                f"| {name} | {source} | {statistics.median(ours):.2f} | {statistics.median(cats):.2f} |"
                f" {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
                f" {statistics.median(touches):.2f} |"
            )
            print(row, flush=True)
            readings.append(row)
        if to == "orbax" and source != "huggingface":  # The next ones read it again; the source is done with.
            if place(root, source).is_dir():
                shutil.rmtree(place(root, source))
            else:
                place(root, source).unlink()
    shutil.rmtree(root)
    return conversions, readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--rounds", type=int, default=5, help="readings of each file (default: 5)")
    parser.add_argument("--folder", help="where to write, by default the system's folder for temporary files")
    given = parser.parse_args()
    conversions, readings = [], []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name in given.sizes:
            done = measure(name, Path(folder) / name, given.rounds)
            conversions += done[0]
            readings += done[1]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    RESULTS.write_text(
        f"""# Converting weights

`python benchmarks/convert.py` on {machine}, {time.strftime("%Y-%m-%d")}. Random weights, float32.

## Memory and time

GB of 10^9 bytes. Peak: anonymous memory of the whole process, of which Python with jax takes about 0.3. Largest:
the largest parameter with all its layers.

| model | from | to | parameters, GB | largest, GB | peak, GB | seconds |
|---|---|---|---|---|---|---|
{chr(10).join(conversions)}

## Reading

All tensors of a file into arrays on the device (here the CPU), beside `cat FILE > /dev/null`, in turn,
{given.rounds} rounds in one process, the file out of the system's cache before each. The last column is how fast this
machine hands out fresh memory of the file's size, one byte of each page touched: `cat` needs none, we do.

| model | form | ours, GB/s | cat, GB/s | ratio, median | ratio, range | fresh memory, GB/s |
|---|---|---|---|---|---|---|
{chr(10).join(readings)}
""",
        encoding="utf-8",
    )
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
