"""Training, told as one story from the settings to the last checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiktoken
from jax.experimental import multihost_utils

from gpt2jax import config as settings
from gpt2jax import parameters
from gpt2jax.attention import describe_attention
from gpt2jax.checkpoint import Checkpoints, Meta
from gpt2jax.config import Config
from gpt2jax.data.pipeline import TokenWindows, open_split, training_batches, validation_windows
from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.diagnose import diagnose
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.guard import too_many_skipped
from gpt2jax.train.plots import draw_loss
from gpt2jax.train.report import write_report
from gpt2jax.train.runlog import Row, RunLog
from gpt2jax.train.step import abstract_state, init_state, make_eval_step, make_place, make_train_step, with_guard
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    stopped_by: signal.Signals | None
    params: Params
    encoding: tiktoken.Encoding
    validation_loss: float
    """Nats per token at the last validation."""
    bits_per_byte: float | None


def train(config: Config, command: str = "", *, debug_nans: bool = False) -> Result:
    """Train as ``config`` says, into its run's folder; goes on from the newest checkpoint there, if there is one.

    Ctrl-C or SIGTERM (to any process of several) ends the run after a step, with a checkpoint to go on from. However
    often a run is stopped, its parameters end bitwise as if it had never been: batch, dropout and learning rate are
    functions of the step. Every process reads its own rows of a batch and writes its own shards; the first one writes
    the logs.

    Args:
        command: the command line, for the report.
        debug_nans: look at every step, and end at the first whose loss or gradient is not finite, saying where.

    Raises:
        GPT2JaxError: data, mesh, settings and the checkpoint in the folder do not fit together, or too many steps in a
            row were skipped.
    """
    # The data, and whether it is this model's.
    model, training = config.model, config.training
    data = config.data
    windows, encoding, bytes_per_token = open_split(data.path, "train", model.n_ctx, model.n_vocab, data.tokenizer)
    held_out, _, bytes_per_token = open_split(data.path, "validation", model.n_ctx, model.n_vocab, data.tokenizer)

    # The mesh, and whether it divides this model and batch.
    place = make_place(config)
    frozen_rows(config)  # Refuses what is no parameter.
    micro_batch = training.batch_size // training.micro_batches
    kernel = describe_attention(model, place)

    run_dir = Path(training.run_dir)
    _open_run_dir(run_dir)
    with Checkpoints(run_dir / "checkpoints", training.keep_last) as checkpoints, _stop_signals() as stop:
        # The state: from the newest checkpoint of this run, else from the weights to start from, else fresh.
        start = checkpoints.latest_step() or 0
        if start:
            _check_resumable(config, checkpoints.read_meta(start), encoding, run_dir)
            state = with_guard(checkpoints.restore(start, abstract_state(config, place)), place)
        elif training.init_from:
            state = init_state(config, place, _given_params(config, place, encoding))
        else:
            state = init_state(config, place)
        if is_primary():
            _write_config(config, run_dir)

        with (
            RunLog(run_dir, start, training.steps, silent=not is_primary()) as log,
            contextlib.closing(_device_batches(config, place, windows, start, micro_batch)) as batches,
        ):
            log.say(_headline(config, place, windows, held_out))
            log.say(f"attention: {kernel}")
            if training.init_from and not start:
                log.say(f"starting from the weights of {training.init_from}")
            if start:
                log.say(f"resumed {run_dir} at step {start} of {training.steps}")
            train_step = make_train_step(config, place)
            evaluate = _Evaluator(config, place, held_out, micro_batch, bytes_per_token)
            clock = _Clock(sum(row["train_seconds"] for row in log.rows[-1:]))

            step = logged = start
            while step < training.steps and not stop:
                windows_ABT1 = next(batches)
                compiles = step == start or step in training.ramp
                if compiles:  # Wait for what is under way, and for this step; start the clock after it.
                    jax.block_until_ready(state)
                    clock.pause(step)
                state, metrics = train_step(state, windows_ABT1)
                step += 1
                _agree_to_stop(stop, step)
                if compiles:
                    jax.block_until_ready(metrics)
                    clock.skip(step)
                if debug_nans and not math.isfinite(float(metrics["loss"]) + float(metrics["grad_norm"])):
                    # The step was skipped: these are the parameters that it had.
                    raise GPT2JaxError(diagnose(config, place, state.params, step - 1, windows_ABT1))
                log.progress(step)
                if step % training.log_interval == 0 or step == training.steps:
                    row: Row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
                    seconds = clock.lap(step)
                    row |= {"train_seconds": clock.total, "step_seconds": seconds}
                    parts = training.micro_batches_before(step) - training.micro_batches_before(logged)
                    tokens = parts * micro_batch * model.n_ctx / (step - logged)
                    row["tokens_per_second"] = tokens / seconds if seconds else 0.0
                    logged = step
                    log.write(row, _train_line(row, training.steps))
                    if fault := too_many_skipped(row, training.max_skipped):
                        fault += f"; {_way_back(checkpoints)}"
                        if is_primary():
                            write_report(config, place.mesh, log.rows, run_dir / "report.md", command, kernel, fault)
                        raise GPT2JaxError(fault)
                validate = step % training.eval_interval == 0 or step == training.steps
                save = step % training.checkpoint_interval == 0 or step == training.steps or bool(stop)
                if save and step < training.steps and not stop and float(metrics["skipped"]):
                    log.say(f"step {step}: skipped, as the checkpoint is that was due")
                    save = False
                if validate or save:
                    jax.block_until_ready(state)
                    clock.pause(step)
                    row = evaluate(state.params, step, clock.total)
                    log.write(row, _validation_line(row))
                    _check_finite("validation_loss", row, checkpoints)
                    if save:
                        checkpoints.save(state, Meta(step, model, encoding, row["validation_loss"]))
                    if is_primary():
                        draw_loss(log.rows, run_dir / "loss.png", str(run_dir))
                    clock.resume(step)

            if step == start:  # Nothing was left to do: say how the model stands.
                row = evaluate(state.params, step, clock.total)
                log.say(f"{run_dir} is at step {step} of {training.steps}: nothing was trained")
                log.say(_validation_line(row))
            else:
                row = next(row for row in reversed(log.rows) if "validation_loss" in row)
                if is_primary():
                    write_report(config, place.mesh, log.rows, run_dir / "report.md", command, kernel)
            if stop:
                log.say(
                    f"stopped at step {step} by {stop[0].name}; resume with: gpt2jax train --resume {run_dir}, or the"
                    " same command"
                )
    return Result(
        step, stop[0] if stop else None, state.params, encoding, row["validation_loss"], row.get("bits_per_byte")
    )


class _Clock:
    """Seconds spent on training steps alone: compilation, validation and saving are left out."""

    def __init__(self, total: float) -> None:
        self.total = total
        self._since: float | None = None
        self._lap_seconds = 0.0
        self._lap_steps = 0
        self._skipped = 0
        self._step = 0

    def resume(self, step: int) -> None:
        self._since, self._step = time.perf_counter(), step

    def pause(self, step: int) -> None:
        if self._since is not None:
            seconds = time.perf_counter() - self._since
            self.total += seconds
            self._lap_seconds += seconds
            self._lap_steps += step - self._step
            self._since = None

    def skip(self, step: int) -> None:
        """Do not time the step just done; it will count as much as the mean of its lap."""
        self._skipped += 1
        self.resume(step)

    def lap(self, step: int) -> float:
        """Mean seconds per step since the last lap; 0 when no whole step was timed."""
        self.pause(step)
        seconds = self._lap_seconds / self._lap_steps if self._lap_steps else 0.0
        self.total, self._skipped = self.total + seconds * self._skipped, 0
        self._lap_seconds, self._lap_steps = 0.0, 0
        self.resume(step)
        return seconds


class _Evaluator:
    """Validation over windows that are the same every time."""

    def __init__(
        self, config: Config, place: Partition, held_out: TokenWindows, batch: int, bytes_per_token: float | None
    ) -> None:
        self.windows, self.batch, self.bytes_per_token = held_out, batch, bytes_per_token
        self.batches = config.training.eval_batches
        self.sharding = place.sharding("batch", None)
        self.step = make_eval_step(config.model, place, config.training.loss_chunk)

    def __call__(self, params: Params, step: int, train_seconds: float) -> Row:
        total = count = 0.0
        for tokens_BT1, weights_BT in validation_windows(self.windows, self.batch, self.batches):
            loss, weight = self.step(params, self._put(tokens_BT1), self._put(weights_BT))
            total, count = total + float(loss), count + float(weight)
        row: Row = {"step": step, "validation_loss": total / count, "train_seconds": train_seconds}
        if self.bytes_per_token:
            row["bits_per_byte"] = row["validation_loss"] / math.log(2) / self.bytes_per_token
        return row

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, self.sharding, lambda index: array[index])


def _device_batches(
    config: Config, place: Partition, windows: TokenWindows, start: int, micro_batch: int
) -> Generator[jax.Array, None, None]:
    """The steps' windows [A, B, T + 1] on the mesh, from step ``start`` on, forever."""
    training = config.training
    local_batches = training_batches(
        windows,
        seed=training.seed,
        batch_size=micro_batch,
        start_step=training.micro_batches_before(start),
        batch_sharding=place.sharding("batch", None),
        read_threads=config.data.read_threads,
        read_buffer=config.data.read_buffer,
    )
    sharding = place.sharding(None, "batch", None)
    with contextlib.closing(local_batches):  # Ends the reading threads.
        for step in itertools.count(start):
            parts = training.micro_batches_at(step)
            local_ABT1 = np.stack([next(local_batches) for _ in range(parts)])
            shape = (parts, micro_batch, config.model.n_ctx + 1)
            yield jax.make_array_from_process_local_data(sharding, local_ABT1, shape)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """A list that the first SIGINT or SIGTERM enters; a second one interrupts as usual."""
    received: list[signal.Signals] = []

    def note(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        for name, handler in previous.items():
            signal.signal(name, handler)

    def pass_on(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    # Of several processes jax watches for SIGTERM, and lets all of them know (:func:`_agree_to_stop`).
    several = jax.process_count() > 1
    handlers: dict[signal.Signals, Any] = (
        {signal.SIGINT: pass_on} if several else dict.fromkeys((signal.SIGINT, signal.SIGTERM), note)
    )
    try:
        previous = {name: signal.signal(name, handler) for name, handler in handlers.items()}
    except ValueError:  # Not the main thread, as in some notebooks: signals are not ours to take.
        yield received
        return
    try:
        yield received
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _agree_to_stop(stop: list[signal.Signals], step: int) -> None:
    """Of several processes: enter SIGTERM into ``stop`` at the same step in all of them, once one has received it."""
    if jax.process_count() > 1 and not stop and multihost_utils.reached_preemption_sync_point(step):
        stop.append(signal.SIGTERM)


def _open_run_dir(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GPT2JaxError(f"training.run_dir: {run_dir}: cannot be made ({error.strerror})") from None


def _write_config(config: Config, run_dir: Path) -> None:
    # Which process this is belongs to the launch: a run may go on in one process, or in others.
    recorded = dataclasses.replace(config, distributed=settings.DistributedConfig())
    write_text(run_dir / "config.yaml", settings.to_yaml(recorded))


def _check_resumable(config: Config, meta: Meta, encoding: tiktoken.Encoding, run_dir: Path) -> None:
    """Refuse to go on from a checkpoint of another model or vocabulary, or from past the end."""
    # How the model is computed may change between sessions; what it is may not.
    for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"):
        ours, theirs = getattr(config.model, name), getattr(meta.model, name)
        if ours != theirs:
            raise GPT2JaxError(
                f"model.{name}: {ours}: the checkpoints in {run_dir} have {theirs};"
                " give another --training.run-dir, or the settings of that run"
            )
    _check_vocabulary(config, encoding, meta.encoding, f"the checkpoints in {run_dir}")
    recorded = run_dir / "config.yaml"
    before = settings.load(recorded) if recorded.exists() else config
    # What the optimizer's state holds hangs on these two.
    for name, ours, theirs in (
        ("optimizer.name", config.optimizer.name, before.optimizer.name),
        ("training.freeze", sorted(frozen_rows(config)), sorted(frozen_rows(before))),
    ):
        if ours != theirs:
            raise GPT2JaxError(
                f"{name}: {ours}: the checkpoints in {run_dir} have {theirs}; give another --training.run-dir, and"
                f" --init-from {run_dir} to start from its weights"
            )
    given = config.training.init_from
    if given and before.training.init_from != given:
        raise GPT2JaxError(
            f"training.init_from: {given}: {run_dir} has a checkpoint of step {meta.step} already, which did not start"
            " from it; give another --training.run-dir"
        )
    if meta.step > config.training.steps:
        raise GPT2JaxError(f"training.steps: {config.training.steps}: {run_dir} has a checkpoint of step {meta.step}")


def _check_vocabulary(
    config: Config, encoding: tiktoken.Encoding, theirs: tiktoken.Encoding | None, whose: str
) -> None:
    if theirs is not None and (encoding.name, encoding._mergeable_ranks) != (theirs.name, theirs._mergeable_ranks):
        raise GPT2JaxError(
            f"data.path: {config.data.path}: its vocabulary ({encoding.name}) is not that of {whose} ({theirs.name})"
        )


def _given_params(config: Config, place: Partition, encoding: tiktoken.Encoding) -> Params:
    """The parameters that ``training.init_from`` names, if they are of this model and vocabulary."""
    assert config.training.init_from is not None
    weights = open_weights(config.training.init_from)
    _check_vocabulary(config, encoding, weights.origin.encoding, config.training.init_from)
    return load_params(weights, place, config.model)


def _check_finite(name: str, row: Row, checkpoints: Checkpoints) -> None:
    """Stop before numbers that are lost reach a checkpoint."""
    if not math.isfinite(row[name]):
        back = _way_back(checkpoints)
        raise GPT2JaxError(f"step {row['step']}: {name} is {row[name]}, try a lower optimizer.learning_rate; {back}")


def _way_back(checkpoints: Checkpoints) -> str:
    latest = checkpoints.latest_step()
    return f"the last checkpoint is of step {latest}" if latest else "there is no checkpoint yet"


def _headline(config: Config, place: Partition, windows: TokenWindows, held_out: TokenWindows) -> str:
    model, training = config.model, config.training
    devices = place.mesh.devices
    mesh = ", ".join(f"{name} {size}" for name, size in place.mesh.shape.items() if size > 1)
    first = training.micro_batches_at(0) * training.batch_size // training.micro_batches
    rising = f"{first} to " if training.ramp else ""
    return (
        f"{parameters.count(model):,} parameters; {rising}{training.batch_size} x {model.n_ctx} tokens a step;"
        f" {windows.tokens:,} training and {held_out.tokens:,} validation tokens in {config.data.path};"
        f" {devices.size} x {devices.flat[0].device_kind}{f' ({mesh})' if mesh else ''}"
    )


def _train_line(row: Row, steps: int) -> str:
    skipped = f"  {row['skipped_in_all']:.0f} skipped" if row["skipped_in_all"] else ""
    return (
        f"step {row['step']:>6.0f}/{steps}  loss {row['loss']:.4f}  grad norm {row['grad_norm']:.3f}"
        f"  lr {row['learning_rate']:.2e}  {row['tokens_per_second']:,.0f} tokens/s{skipped}"
    )


def _validation_line(row: Row) -> str:
    line = f"step {row['step']:>6.0f}  validation loss {row['validation_loss']:.4f} nats per token"
    return line + f", {row['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in row else line
