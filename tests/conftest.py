"""Eight virtual CPU devices, strict dtypes and ranks, a compilation cache, and what many tests share."""

import gc
import os
import signal
from importlib.metadata import version

# XLA's CPU client runs all virtual devices on one pool with a thread per core, and an all-reduce blocks a thread per
# device: on a machine with few cores a longer run deadlocks and aborts. NPROC sizes that pool, and is read when jax
# is imported.
os.environ["NPROC"] = "64"
# Most of the suite's time is compiling, and more than half of that was LLVM's optimisation of programs that run once.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
# Half of the rest was the newer of two ways in which XLA writes loops. jaxlib 0.12 has no other, and XLA ends on an
# option that it does not know.
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

from tests.helpers import Checkpoint, load_huggingface, load_openai

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# A cache for each process of pytest-xdist: jax writes a program in place, where another could read half of it.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".cache" / f"jax-tests{WORKER}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Where each operation of a program was written is most of what its text holds, and nobody reads it here.
jax.config.update("jax_traceback_in_locations_limit", 0)
# The collector, which goes again and again through all that programs hold, took a twentieth of the suite's time.
gc.set_threshold(100_000, 50, 100)

# A shell has what it starts in its background ignore SIGINT, and all that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("gpt2jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("gpt2jax")

_COMPILED: list[str] = []


def _note_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(str(kwargs["fun_name"]))


jax.monitoring.register_event_duration_secs_listener(_note_compilation)


@pytest.fixture(scope="module", autouse=True)
def _programs_end_with_their_module() -> Iterator[None]:
    """Compiled programs hold mappings of memory, of which a process has 65,530: a run that kept all of them crashed
    while it compiled, probably for want of more. Another module that needs one finds it in the cache on disk."""
    yield
    jax.clear_caches()


@pytest.fixture
def compiled() -> list[str]:
    """Programs compiled since the test began, as ``jit(name)``, whether or not the cache on disk had them."""
    _COMPILED.clear()
    return _COMPILED


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For what runs optax's Adam, which raises a float to the power of an integer: strict promotion refuses that."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def hf_tiny() -> Checkpoint:
    """3 layers of random weights, with what Hugging Face's program computes from them (tests/fixtures/hf_tiny)."""
    return load_huggingface()


@pytest.fixture(scope="session")
def openai_tiny() -> Checkpoint:
    """12 layers of random weights, with what OpenAI's program computes from them (tests/fixtures/openai_tf_tiny)."""
    return load_openai()
