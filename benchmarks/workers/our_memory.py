"""Our side of ``python -m benchmarks memory``: what a training step holds at its peak, and its time.

The first turn compiles the step, takes what ``gpt2jax plan`` says of it, and measures. Linux alone tells a process its
peak (VmHWM) and forgets it on demand. Resident are pages that were touched, of all devices together; left out is what
is there before and after a run: the interpreter, compiled code, threads, the windows. A first run, not counted, makes
these. Freed memory goes back to the system at once, so that no slack of the allocator counts as ours.
"""

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

if json.loads(sys.argv[1])["devices"] > 1:
    os.environ["NPROC"] = "64"  # Why: gpt2jax.runtime.start. Read when jax is imported.

import jax
import numpy as np

from gpt2jax.config import Config, LoraConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.plan.estimate import step_memory
from gpt2jax.train import memory
from gpt2jax.train.step import init_state, lower_step, make_place

M_MMAP_THRESHOLD = -3  # Of mallopt: what is larger is a mapping of its own, and gone when freed.


def resident(name: str = "VmRSS") -> int:
    """Bytes of this process, now or (``VmHWM``) at most since the peak was forgotten."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024


def settled(libc: ctypes.CDLL) -> int:
    gc.collect()
    libc.malloc_trim(0)
    return resident()


def main() -> None:
    work = json.loads(sys.argv[1])
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", work["devices"])
    config = Config(
        model=ModelConfig(**work["model"]),
        mesh=MeshConfig(**work["mesh"]),
        optimizer=OptimizerConfig(**work["optimizer"]),
        lora=LoraConfig(**work["lora"]),
        training=TrainingConfig(**work["training"]),
    )
    place, parts = make_place(config), config.training.micro_batches
    shape = (parts, config.training.batch_size // parts, config.model.n_ctx + 1)
    windows = np.random.default_rng(0).integers(config.model.n_vocab, size=shape).astype(np.int32)
    on_devices = jax.device_put(windows, place.sharding(None, "batch", None))
    abstract, lowered = lower_step(config, place)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    init = jax.jit(lambda: init_state(config, place), out_shardings=shardings)  # Compiled once.
    step: Any = None
    state: Any = None

    def peak(count: int) -> tuple[int, int]:
        """Bytes that the process holds with a state that rests, and at most in ``count`` steps."""
        state = jax.block_until_ready(init())
        rests = settled(libc)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        for _ in range(count):
            state = jax.block_until_ready(step(state, on_devices)[0])
        return rests, resident("VmHWM")

    for line in sys.stdin:
        count = int(line)
        out: dict[str, float] = {}
        if step is None:
            step = lowered.compile()
            planned = step_memory(abstract, step, tells_peak=False)
            peak(1)
            before, code = settled(libc), resident("RssFile")
            rests, most = peak(count)
            # Pages of files, as libraries, are read again where the system had let them go.
            code = max(resident("RssFile") - code, 0)
            out = {
                "planned": sum(planned.values()),
                "planned_state": planned["parameters"] + planned["optimizer state"],
                "formula": memory.estimate(config, place).total,
                "measured": (most - before - code) / work["devices"],
                "measured_state": (rests - before) / work["devices"],
                "not_counted": before,
            }
        elif state is None:
            state, _ = step(init(), on_devices)
        jax.block_until_ready(state)
        start, used = time.perf_counter(), time.process_time()
        if not out:
            for _ in range(count):
                state, _ = step(state, on_devices)
            jax.block_until_ready(state)
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, out]), flush=True)


if __name__ == "__main__":
    main()
