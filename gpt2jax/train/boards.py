"""Where others draw a run's numbers: TensorBoard, and Weights & Biases if asked for."""

import dataclasses
import importlib.util
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from gpt2jax import config as settings
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.train.rows import Row

WANDB_ID_FILE = "wandb_id.txt"

_FLUSH_SECONDS = 10.0
"""Until what was written is on the disk; TensorBoard itself looks every 30 seconds."""


class Board(Protocol):
    name: str
    """What to call it where it cannot be written."""

    def write(self, row: Row) -> None:
        """Draw a row.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Written by the thread that trains: tensorboardX's own writer has a thread for it, and when a full disk ends that
    one, whoever writes next waits forever."""

    def __init__(self, run_dir: Path, purge_step: int) -> None:
        """Write events beside those of earlier starts, of which steps from ``purge_step`` on will be done again.

        Raises:
            OSError: they cannot be written.
        """
        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.name = str(folder)
        # TensorBoard looks for such names, and reads them in their order.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._add(Event(file_version="brain.Event:2"))
        # Of files before this one TensorBoard hides what has this step or a later one.
        self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._flush()

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self._add(Event(step=int(row["step"]), summary=scalar(name, value)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()


def check_wandb(config: Config) -> None:
    """Refuse ``training.wandb`` where the package is missing, before anything is done."""
    if config.training.wandb is None:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # Without an origin it is a folder of that name, which W&B itself makes.
        raise GPT2JaxError(
            f"training.wandb: {config.training.wandb}: the package wandb is not installed; pip install 'gpt2jax[wandb]'"
        )


class WandB:
    """One run there for one run here, however often it is started: its id is kept in the run's folder.

    W&B takes a step once and in order, but steps after a checkpoint are done again when a run was killed. So the step
    is logged as a number like others, and made the axis of all of them; what comes twice lies on itself.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        import wandb

        self.name = "W&B"
        path = run_dir / WANDB_ID_FILE
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        name = config.training.wandb
        try:
            self._run: Any = wandb.init(
                project=name,
                id=path.read_text(encoding="utf-8").strip(),
                name=run_dir.name,
                dir=str(run_dir),
                resume="allow",
                config=dataclasses.asdict(
                    dataclasses.replace(config, distributed=settings.DistributedConfig())  # As in config.yaml.
                ),
            )
        except Exception as error:  # wandb raises classes of its own: no key, no such entity, no answer.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise GPT2JaxError(
                f"training.wandb: {name}: W&B did not start ({reason[0]}); WANDB_MODE=offline does without its server"
            ) from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        self._run.log(dict(row))

    def close(self) -> None:
        self._run.finish()
