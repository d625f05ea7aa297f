"""What a program does with a CPU's memory, and with what it has compiled."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2jax import runtime

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from gpt2jax import runtime

kept = sys.argv[1] == "kept" and runtime.keep_memory()
step = jax.jit(lambda x: ((x @ x.T) @ x).sum())  # Its temporary is 64 MB.
x = jax.random.normal(jax.random.key(0), (4096, 64))
for _ in range(2):
    out = float(step(x))
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), min(faults), out)  # Once more the heap may grow.
"""


def faults(*, kept: bool) -> tuple[int, int, float]:
    """Whether memory is kept, the fewest page faults of a step, and what it computes; in a process of one device."""
    command = [sys.executable, "-c", PROGRAM, "kept" if kept else "free"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    number, count, out = done.stdout.split()
    return int(number), int(count), float(out)


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc", reason="malloc is told so in glibc alone"
)
def test_memory_that_is_kept_is_not_mapped_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    kept, few, out = faults(kept=True)
    free, many, same = faults(kept=False)
    assert (kept, free) == (1, 0)
    assert few < 1000
    assert many > 16_000  # Twin: a fault for every 4 KiB of at least one temporary.
    assert out == same


@pytest.mark.parametrize(
    ("platforms", "devices", "plugins", "kept"),
    [
        ("cpu", -1, ["cuda"], True),
        (None, 1, [], True),
        (None, -1, ["cuda"], False),  # jax would take the accelerator.
        ("cuda", -1, ["cuda"], False),
        ("cpu", 8, [], False),
    ],
)
def test_accelerators_and_virtual_devices_keep_their_ways(
    monkeypatch: pytest.MonkeyPatch, platforms: str | None, devices: int, plugins: list[str], kept: bool
) -> None:
    told: list[tuple[Any, Any]] = []

    def tell(name: Any, value: Any) -> int:
        told.append((name, value))
        return 1

    config = SimpleNamespace(jax_platforms=platforms, jax_num_cpu_devices=devices, update=tell)
    monkeypatch.setattr(runtime, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(runtime.platform, "system", lambda: "Linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=tell))
    monkeypatch.setattr(runtime.importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    assert runtime.keep_memory() is kept
    assert told == ([(-4, 0), (-1, -1), (-2, 64 << 20), ("jax_cpu_enable_async_dispatch", False)] if kept else [])


COMPILES = """
import sys
import jax
from gpt2jax import runtime

runtime.start()
for seconds in sys.argv[1:]:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
"""


def test_small_programs_are_kept(tmp_path: Path) -> None:
    """Twin: those that are compiled in less than a minute are not."""
    for name, seconds, kept in (("all", (), True), ("few", ("60",), False)):
        environment = os.environ | {"GPT2JAX_CACHE": str(tmp_path / name), "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        subprocess.run([sys.executable, "-c", COMPILES, *seconds], check=True, env=environment)
        found = (tmp_path / name / "compiled").glob("jit__lambda*-cache")
        assert bool([*found]) == kept
