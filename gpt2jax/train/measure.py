"""A row of the log from what a step has returned and the clock says."""

from gpt2jax.config import Config
from gpt2jax.train.clock import Clock
from gpt2jax.train.rows import Row
from gpt2jax.train.step import Metrics
from gpt2jax.train.utilization import Utilization


def training_row(
    config: Config, metrics: Metrics, step: int, logged: int, clock: Clock, utilization: Utilization, filled: float
) -> Row:
    """The metrics of ``step``, and the speed of the steps since the last row, which was of step ``logged``.

    Args:
        filled: share of the positions that hold tokens, on the average of an epoch. ``tokens`` (trained on so far) and
            ``tokens_per_second`` leave out what is padding; ``mfu`` does not: it is computed like the rest.
    """
    training = config.training
    row: Row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
    seconds = clock.lap(step)
    row |= {"train_seconds": clock.total, "step_seconds": seconds}
    positions, before = (training.positions_before(number, config.model.n_ctx) for number in (step, logged))
    row["tokens"] = round(filled * positions)
    rate = (positions - before) / (step - logged) / seconds if seconds else 0.0
    row["tokens_per_second"] = filled * rate
    if (mfu := utilization.of(rate)) is not None:
        row["mfu"] = mfu
    return row
