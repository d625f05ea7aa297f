"""What every notebook begins with: the runtime, said in two lines, and a small trained model to look at.

jax is imported by what is called, not with this module: some of its environment is known only then.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt2jax import config
from gpt2jax.errors import GPT2JaxError

# A byte-level GPT-2 on the language reference that Python itself carries. Muon, as it learns most from little
# (docs/optimizers.md).
SMALL: dict[str, dict[str, Any]] = {
    "model": {
        "n_vocab": 257,
        "n_ctx": 64,
        "n_embd": 128,
        "n_head": 4,
        "n_layer": 4,
        "init": "human-preferences",
        "scan_unroll": 4,
    },
    "data": {"path": "pydoc", "tokenizer": "bytes"},
    "optimizer": {"name": "muon", "learning_rate": 8e-3, "min_learning_rate": 4e-4, "warmup_steps": 30},
    "training": {
        "steps": 500,
        "batch_size": 16,
        "log_interval": 50,
        "eval_interval": 500,
        "eval_batches": 0,
        "checkpoint_interval": 500,
    },
}

_DIFFERS = {
    "cpu": "CPU: matrix products in float32.",
    "gpu": "GPU: matrix products in bfloat16, so numbers and drawn texts differ a little from those of a CPU;"
    " attention by cuDNN where the card has it (not on a T4), else by XLA.",
    "tpu": "TPU: matrix products in bfloat16, so numbers and drawn texts differ a little from those of a CPU;"
    " attention by Splash where the context is a multiple of 128, else by XLA.",
}


def begin(cpu_devices: int = 0) -> None:
    """Start as ``gpt2jax train`` does (:func:`gpt2jax.runtime.start`, :func:`gpt2jax.runtime.keep_memory`), then print
    versions, devices, and what differs on this backend. To be called once, before any array is made.

    Args:
        cpu_devices: virtual CPU devices to run on where the machine has fewer accelerators; 0 takes what it has.

    Raises:
        GPT2JaxError: virtual devices, after jax was imported without ``NPROC=64`` in the environment, or has looked
            for devices.
    """
    if cpu_devices and (own := accelerators()) < cpu_devices:
        print(f"Accelerators: {own}, fewer than {cpu_devices}: as many virtual devices on the CPU stand in.")
        if "jax" not in sys.modules:
            # Why: gpt2jax.runtime.start. Without virtual devices, more threads than cores make a CPU slower.
            os.environ.setdefault("NPROC", str(max(64, 2 * cpu_devices)))
        elif "NPROC" not in os.environ:
            raise GPT2JaxError(
                f"cpu_devices: {cpu_devices}: jax was imported without NPROC=64 in the environment: restart the runtime"
                " and begin again"
            )
    else:
        cpu_devices = 0
    import jax

    from gpt2jax import runtime

    try:
        runtime.start(cpu_devices)
    except RuntimeError:
        raise GPT2JaxError(
            f"cpu_devices: {cpu_devices}: jax has looked for devices already: restart the runtime and begin again"
        ) from None
    runtime.keep_memory()
    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    version = importlib.metadata.version
    print(
        f"Python {platform.python_version()}, gpt2jax {version('gpt2jax')}, jax {jax.__version__}"
        f" on {len(devices)} x {kinds}"
    )
    print(_DIFFERS[jax.default_backend()])


def accelerators() -> int:
    """How many this machine has. Another process is asked: once jax has looked for devices, it takes no others.

    Raises:
        GPT2JaxError: jax fails to find out.
    """
    ask = "import jax; print(jax.device_count() * (jax.default_backend() != 'cpu'))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise GPT2JaxError(f"devices: jax finds none here: {answer.stderr.strip().splitlines()[-1]}")
    return int(answer.stdout.split()[-1])


def small_model(run_dir: str | Path = "runs/small") -> Path:
    """Train the model of :data:`SMALL`, 0.8 million parameters, unless it is there already.

    A run that was stopped goes on from its last checkpoint. Nothing is downloaded.

    Returns:
        The run's folder, which :func:`gpt2jax.load` and all else that wants a model takes.

    Raises:
        GPT2JaxError: ``run_dir`` holds another run.
    """
    from gpt2jax import checkpoint
    from gpt2jax.train.loop import train

    sections = SMALL | {"training": SMALL["training"] | {"run_dir": str(run_dir)}}
    settings = config.from_mapping(sections, "gpt2jax.notebook.SMALL")
    if checkpoint.holds_one(Path(run_dir)):
        meta = checkpoint.read_meta(run_dir)
        if meta.step == settings.training.steps and meta.model == settings.model:
            print(f"{run_dir} is there already, trained for {meta.step} steps")
            return Path(run_dir)
    result = train(settings)
    print(f"validation loss {result.validation_loss:.3f} nats per byte, after step {result.step}")
    return Path(run_dir)
