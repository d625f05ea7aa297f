"""Start-up of a program that uses gpt2jax: devices, the compilation cache, a CPU's memory, and what there is to say of
them."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import jax

from gpt2jax.errors import GPT2JaxError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tiktoken", "numpy")


def cache_folder() -> Path:
    """Where compiled programs are kept between runs: ``$GPT2JAX_CACHE``, else ``~/.cache/gpt2jax``."""
    return Path(os.environ.get("GPT2JAX_CACHE") or Path.home() / ".cache" / "gpt2jax")


def start(cpu_devices: int = 0) -> None:
    """Call once, before any array is made: turns the compilation cache on and asks for virtual CPU devices.

    Args:
        cpu_devices: virtual CPU devices to run on instead of the machine's accelerators; 0 leaves devices alone.
            Needs ``NPROC=64`` in the environment before jax is imported, which the command line and
            :func:`gpt2jax.notebook.begin` set: XLA runs all virtual devices on one pool of as many threads as there
            are cores, all-reduces block a thread each, and without more threads a longer run deadlocks.
    """
    if cpu_devices:
        if int(os.environ.get("NPROC", "0")) <= cpu_devices:
            raise GPT2JaxError(
                f"mesh.cpu_devices: {cpu_devices}: needs NPROC=64, or what is above it, in the environment"
            )
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    # A folder that the user gave to jax itself stands.
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        # Small programs too: a run has dozens of them (benchmarks/log.md).
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Call before jax's first device is asked for, in a program that trains: memory that one step has freed stays with
    the process, for the next one.

    XLA takes the temporaries of a CPU's program from malloc as one piece, and malloc in glibc maps so large a piece
    anew every time, with a page fault for every 4 KiB of it: 7 to 23 percent of a step (benchmarks/log.md). It
    does not where it may not map, which holds for the heap of the main thread alone: so programs are run by the thread
    that calls them.

    Returns:
        Whether that is done: on Linux with glibc, one device, and no accelerator that jax would take for it.
    """
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    plugins = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    cpu = asked == "cpu" if asked else not plugins
    if not cpu or jax.config.jax_num_cpu_devices > 1 or platform.system() != "Linux":  # type: ignore[attr-defined]
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    kept = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    if mallopt is None or not all(mallopt(name, value) for name, value in kept):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("gpt2jax", *PACKAGES)}
    return {"python": platform.python_version(), **found}


def describe() -> dict[str, Any]:
    """Versions, devices and folders, as ``gpt2jax info`` prints them."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        **versions(),
        "platform": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
        if hasattr(os, "sched_getaffinity")
        else f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "backend": jax.default_backend(),
        "devices": f"{len(devices)} x {', '.join(kinds)}",
        "processes": str(jax.process_count()),
        "cache folder": str(cache_folder()),
        "compiled programs": str(jax.config.jax_compilation_cache_dir or "not kept"),  # type: ignore[attr-defined]
    }
