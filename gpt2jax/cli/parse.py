"""What the verbs share: options from tyro, errors in one line, the start of jax."""

import contextlib
import io
import os
import re
from typing import Any

import tyro

from gpt2jax.config import DistributedConfig
from gpt2jax.errors import GPT2JaxError


def parse(cls: Any, args: list[str], verb: str, description: str, default: Any = None) -> Any:
    """``args`` as an instance of ``cls``; what tyro finds wrong becomes one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            kwargs = {} if default is None else {"default": default}
            return tyro.cli(cls, args=args, prog=f"gpt2jax {verb}", description=description, **kwargs)
    except SystemExit as end:
        if end.code in (0, None):
            raise
    raise GPT2JaxError(f"{verb}: {one_line(errors.getvalue())}")


def one_line(report: str) -> str:
    """The message of tyro's report, and the nearest option when it knows one.

    The report is a title and blocks between rules, in a box where the terminal can draw one; the message is the first
    block, and options to try instead follow as lines that start with ``--``.
    """
    report = re.sub(r"\x1b\[[0-9;]*m", "", report)
    lines = [line.strip("│ ") for line in report.splitlines() if line and line[0] not in "╭╰"]
    blocks: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= {"-", "─"} and len(line) > 4:
            blocks.append([])
        elif line:
            blocks[-1].append(line)
    title = 0 if "╭" in report else 1
    hints = [line.split()[0] for block in blocks[title + 1 :] for line in block if line.startswith("--")]
    message = " ".join(blocks[title])
    return f"{message} (nearest: {hints[0]})" if message.startswith("Unrecognized") and hints else message


def start(cpu_devices: int = 0, distributed: DistributedConfig | None = None, *, keep_memory: bool = False) -> None:
    """Prepare jax, and meet the other processes when there are any.

    What jax reads from the environment must stand there before it is imported.

    Args:
        keep_memory: as :func:`gpt2jax.runtime.keep_memory` does.
    """
    if cpu_devices:
        os.environ["NPROC"] = str(max(64, 2 * cpu_devices))  # Why: gpt2jax.runtime.start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No XLA chatter between our lines.
    from gpt2jax import runtime

    runtime.start(cpu_devices)
    if keep_memory:
        runtime.keep_memory()
    if distributed is not None:
        from gpt2jax import distributed as processes

        processes.start(distributed)
