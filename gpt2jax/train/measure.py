"""A row of the log from what a step has returned and the clock says."""

from gpt2jax.config import Config
from gpt2jax.train.clock import Clock
from gpt2jax.train.rows import Row
from gpt2jax.train.step import Metrics
from gpt2jax.train.utilization import Utilization


def training_row(
    config: Config, metrics: Metrics, step: int, logged: int, clock: Clock, utilization: Utilization
) -> Row:
    """The metrics of ``step``, and the speed of the steps since the last row, which was of step ``logged``."""
    training = config.training
    row: Row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
    seconds = clock.lap(step)
    row |= {"train_seconds": clock.total, "step_seconds": seconds}
    tokens = training.tokens_before(step, config.model.n_ctx) - training.tokens_before(logged, config.model.n_ctx)
    row["tokens_per_second"] = tokens / (step - logged) / seconds if seconds else 0.0
    if (mfu := utilization.of(row["tokens_per_second"])) is not None:
        row["mfu"] = mfu
    return row
