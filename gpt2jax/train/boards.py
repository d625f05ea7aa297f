"""Where others draw a run's numbers: TensorBoard, and Weights & Biases if asked for."""

import dataclasses
import importlib.util
import uuid
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from gpt2jax import config as settings
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.train.rows import Row

WANDB_ID_FILE = "wandb_id.txt"


class Board(Protocol):
    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, run_dir: Path, purge_step: int | None) -> None:
        """Write events beside those of earlier starts, of which steps from ``purge_step`` on will be done again."""
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


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
