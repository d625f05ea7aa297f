"""When a run ends before its last step: no new best validation loss for as long as ``training.patience`` says.

All of this is a function of the rows of metrics.jsonl, which a resumed run has too: it ends where a run that was never
stopped does, and once it has ended it stays so.
"""

from gpt2jax.config import TrainingConfig
from gpt2jax.train.rows import Row


def counts(row: Row, training: TrainingConfig) -> bool:
    """Whether a validation is one that patience counts: those where a run was stopped are chance."""
    return "validation_loss" in row and row["step"] % training.eval_interval == 0


def is_best(rows: list[Row], training: TrainingConfig) -> bool:
    """Whether the last row is a validation, and the best so far."""
    losses = [row["validation_loss"] for row in rows if counts(row, training)]
    return bool(rows) and counts(rows[-1], training) and losses[-1] < min(losses[:-1], default=float("inf"))


def out_of_patience(rows: list[Row], training: TrainingConfig) -> str:
    """Why the run ends here, or nothing when it goes on."""
    found = [row for row in rows if counts(row, training)]
    if not training.patience or not found:
        return ""
    best = min(range(len(found)), key=lambda index: found[index]["validation_loss"])
    since = len(found) - 1 - best
    if since < training.patience:
        return ""
    return (
        f"stopped early at step {found[-1]['step']:.0f} of {training.steps}: {since} validations without a new best;"
        f" the best is {found[best]['validation_loss']:.4f} nats per token, at step {found[best]['step']:.0f}"
    )
