"""What a run says of itself on the terminal, a line each."""

from gpt2jax import lora, parameters
from gpt2jax.config import Config
from gpt2jax.partition import Partition
from gpt2jax.progress import duration
from gpt2jax.train.corpus import Corpus
from gpt2jax.train.rows import Row


def headline(config: Config, place: Partition, corpus: Corpus) -> str:
    model, training = config.model, config.training
    devices = place.mesh.devices
    mesh = ", ".join(f"{name} {size}" for name, size in place.mesh.shape.items() if size > 1)
    first = training.micro_batches_at(0) * training.batch_size // training.micro_batches
    rising = f"{first} to " if training.ramp else ""
    adapters = f", and {lora.count(config.lora, model):,} in adapters, which alone learn" if config.lora.rank else ""
    windows = corpus.windows
    what = "tokens a step"
    if windows.filled < 1:
        shares = f"{100 * windows.filled:.0f} % hold tokens and {100 * windows.taught:.0f} % teach"
        what = f"positions a step, of which {shares}"
    held_out = f"{corpus.held_out.tokens:,}" if corpus.held_out else "no"
    return (
        f"{parameters.count(model):,} parameters{adapters};"
        f" {rising}{training.batch_size} x {model.n_ctx} {what};"
        f" {windows.tokens:,} training and {held_out} validation tokens in {corpus.folder};"
        f" {devices.size} x {devices.flat[0].device_kind}{f' ({mesh})' if mesh else ''}"
    )


def train_line(row: Row, config: Config) -> str:
    skipped = f"  {row['skipped_in_all']:.0f} skipped" if row["skipped_in_all"] else ""
    return (
        f"step {row['step']:>6.0f}/{config.training.steps}  loss {row['loss']:.4f}  grad norm {row['grad_norm']:.3f}"
        f"  lr {row['learning_rate']:.2e}  {_speed(row, config)}{skipped}"
    )


def bar_text(row: Row, config: Config) -> str:
    """What stays in sight beside the bar."""
    return f"loss {row['loss']:.4f}  {_speed(row, config)}"


def _speed(row: Row, config: Config) -> str:
    text = f"{row['tokens_per_second']:,.0f} tokens/s"
    if "mfu" in row:
        text += f"  MFU {100 * row['mfu']:.1f} %"
    training, length = config.training, config.model.n_ctx
    share = training.positions_before(training.steps, length) / training.positions_before(int(row["step"]), length)
    left = (share - 1) * row["tokens"]
    if left and row["tokens_per_second"]:  # By the steps just done: what lies between steps is not counted.
        text += f"  {duration(left / row['tokens_per_second'])} left"
    return text


def stopped_line(run_dir: str, step: int, signal_name: str) -> str:
    return (
        f"stopped at step {step} by {signal_name}; resume with: gpt2jax train --resume {run_dir}, or the same command"
    )


def validation_line(row: Row) -> str:
    line = f"step {row['step']:>6.0f}  validation loss {row['validation_loss']:.4f} nats per token"
    return line + f", {row['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in row else line
