"""Start-up of a program that uses gpt2jax: devices, the compilation cache, and what there is to say of both."""

import importlib.metadata
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
            Needs ``NPROC=64`` in the environment before jax is imported, which the command line sets: XLA runs
            all virtual devices on one pool of as many threads as there are cores, all-reduces block a thread each,
            and without more threads a longer run deadlocks.
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
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
