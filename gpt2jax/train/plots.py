"""The picture of a run."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt2jax.files import new_file
from gpt2jax.train.runlog import Row


def draw_loss(rows: list[Row], path: Path, title: str) -> None:
    """Draw training and validation loss (nats per token), learning rate and gradient norm over steps to a PNG."""
    train = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    # A figure of its own, without pyplot: no global state, no display, no clash with the user's figures.
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    losses.plot([row["step"] for row in train], [row["loss"] for row in train], color="#9db8d9", lw=1, label="train")
    if validation:
        best = min(validation, key=lambda row: row["validation_loss"])
        losses.plot(
            [row["step"] for row in validation],
            [row["validation_loss"] for row in validation],
            "o-",
            color="#b3402a",
            ms=3,
            label=f"validation, best {best['validation_loss']:.4f} at step {best['step']:.0f}",
        )
    losses.set_ylabel("loss (nats per token)")
    losses.set_title(title)
    losses.grid(alpha=0.3)
    losses.legend()
    rate.plot([row["step"] for row in train], [row["learning_rate"] for row in train], color="#333333", lw=1)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    rate.grid(alpha=0.3)
    norm = rate.twinx()
    norm.plot([row["step"] for row in train], [row["grad_norm"] for row in train], color="#5a9a5a", lw=0.6)
    norm.set_ylabel("gradient norm", color="#5a9a5a")
    with new_file(path) as partial:
        figure.savefig(partial, format="png")
