"""Training, told as one story from the settings to the last checkpoint."""

import contextlib
import dataclasses
import math
import signal
from pathlib import Path

import jax
import tiktoken

from gpt2jax import lora, parameters
from gpt2jax.attention import describe_attention
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import remove_partial
from gpt2jax.parameters import Params
from gpt2jax.train.batches import device_batches
from gpt2jax.train.boards import WandB, check_wandb
from gpt2jax.train.clock import Clock
from gpt2jax.train.corpus import open_corpus
from gpt2jax.train.diagnose import diagnose
from gpt2jax.train.ending import conclude
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.guard import stop_if_skipping
from gpt2jax.train.lines import bar_text, headline, stopped_line, train_line, validation_line
from gpt2jax.train.lock import sole_owner
from gpt2jax.train.measure import training_row
from gpt2jax.train.memory import memory_line
from gpt2jax.train.patience import out_of_patience
from gpt2jax.train.pause import Pauses
from gpt2jax.train.plots import Picture
from gpt2jax.train.profile import Profile
from gpt2jax.train.report import write_report
from gpt2jax.train.resume import write_config
from gpt2jax.train.runlog import RunLog
from gpt2jax.train.samples import Draw, Samples
from gpt2jax.train.sessions import Sessions
from gpt2jax.train.start import begin
from gpt2jax.train.step import make_place, make_train_step
from gpt2jax.train.stopping import agree_to_stop, stop_signals
from gpt2jax.train.utilization import Utilization
from gpt2jax.train.validation import Evaluator


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    stopped_by: signal.Signals | None
    """None where the run has come to its end."""
    params: Params
    """The table's, with adapters merged; of a run with ``training.patience`` those of its best checkpoint."""
    params_step: int
    """The step that they are of."""
    encoding: tiktoken.Encoding
    validation_loss: float | None
    """Nats per token at the last validation; None where nothing was held out."""
    bits_per_byte: float | None
    ended_early: bool = False
    """Whether the run's patience has ended."""


def train(
    config: Config,
    command: str = "",
    *,
    debug_nans: bool = False,
    draw: Draw | None = None,
    profile: range | None = None,
) -> Result:
    """Train as ``config`` says, into its run's folder; goes on from the newest checkpoint there, if there is one.

    Ctrl-C or SIGTERM (to any process of several) ends the run after a step, with a checkpoint to go on from. However
    often a run is stopped, its parameters end bitwise as if it had never been: batch, dropout and learning rate are
    functions of the step. Every process reads its own rows of a batch and writes its own shards; the first one writes
    the logs.

    Args:
        command: the command line, for the report.
        debug_nans: look at every step, and end at the first whose loss or gradient is not finite, saying where.
        draw: what writes samples; by default there are none.
        profile: steps to trace, numbered as the log does.

    Raises:
        GPT2JaxError: data, mesh, settings and the checkpoint in the folder do not fit together, another run is in the
            folder, or too many steps in a row were skipped.
    """
    with sole_owner(Path(config.training.run_dir)) as unlocked:
        return _train(config, command, debug_nans, draw, profile, unlocked)


def _train(
    config: Config, command: str, debug_nans: bool, draw: Draw | None, profile: range | None, unlocked: str
) -> Result:
    # The data, and whether it is this model's.
    model, training = config.model, config.training
    check_wandb(config)
    corpus = open_corpus(config)
    encoding = corpus.encoding

    # The mesh, and whether it divides this model and batch.
    place = make_place(config)
    frozen_rows(config)  # Refuses what is no parameter.
    micro_batch = training.batch_size // training.micro_batches
    kernel = describe_attention(model, place, config.data.document_mask)
    if is_primary():  # Before anything takes it.
        print(memory_line(config, place), flush=True)

    run_dir = Path(training.run_dir)
    keep = training.keep_last, training.keep_best, training.keep_every
    with Checkpoints(run_dir / "checkpoints", *keep) as checkpoints, stop_signals() as stop:
        # The state: from the newest whole checkpoint of this run, else from the weights to start from, else fresh.
        begun = begin(config, place, checkpoints, encoding, run_dir)
        state, start = begun.state, begun.step
        tracing = Profile(profile, start, training.steps, run_dir / "profile")
        if is_primary():
            remove_partial(run_dir)
            write_config(config, run_dir)

        silent = not is_primary()
        speed = Utilization(config, place.mesh)
        wandb = (lambda: WandB(config, run_dir)) if training.wandb else None
        with (
            tracing,
            Sessions(run_dir, start, parameters.count(model), speed.devices, speed.kind, silent) as sessions,
            RunLog(run_dir, start, training.steps, silent, wandb) as log,
            contextlib.closing(device_batches(config, place, corpus.windows, start, micro_batch)) as batches,
        ):
            for line in (headline(config, place, corpus), f"attention: {kernel}", speed.line()):
                log.say(line)
            if start:
                log.say(f"resumed {run_dir} at step {start} of {training.steps}")
            for note in filter(None, (unlocked, *corpus.notes, *begun.notes)):
                log.say(note)
            train_step = make_train_step(config, place)
            evaluate = Evaluator(config, place, corpus, micro_batch) if corpus.held_out is not None else None
            clock = Clock(sum(row["train_seconds"] for row in log.rows[-1:]))
            picture = Picture(run_dir / "loss.png", str(run_dir), sessions.restarts, silent)
            samples = Samples(config, corpus, place, start, draw)
            pauses = Pauses(
                config, corpus, begun.adapters, evaluate, checkpoints, samples, picture, log, sessions, clock
            )
            ended_early = out_of_patience(log.rows, training)
            if start < training.steps and not ended_early:
                pauses.catch_up(state.params, start)

            def report(step: int, ended_by: str = "") -> None:
                sessions.note(step)
                if note := picture.draw(log.rows):
                    log.say(note)
                sessions.note(step)  # Again: the report's hours are those of all that came before it.
                if is_primary():
                    known = log.rows, sessions.all, run_dir / "report.md", command, kernel
                    write_report(config, place.mesh, *known, step, corpus.windows.filled, ended_by)

            step = logged = start
            stopping = bool(stop)
            windows_ABT1 = next(batches)
            try:
                while step < training.steps and not stopping and not ended_early:
                    compiles = step == start or step in training.ramp
                    if compiles:  # Wait for what is under way, and for this step; start the clock after it.
                        jax.block_until_ready(state)
                        clock.pause(step)
                        # One program for all batches of this size: what it would be traced again for is an error.
                        program = train_step.lower(state, windows_ABT1).compile()
                    with tracing.around(step + 1, clock, state):
                        state, metrics = program(state, windows_ABT1)
                    step += 1
                    # The next batch goes to the devices while they work on this one.
                    done_ABT1, windows_ABT1 = windows_ABT1, next(batches) if step < training.steps else windows_ABT1
                    checkpoints.check()
                    agree_to_stop(stop, step)
                    if compiles:
                        jax.block_until_ready(metrics)
                        clock.skip(step)
                    if debug_nans and not math.isfinite(float(metrics["loss"]) + float(metrics["grad_norm"])):
                        # The step was skipped: these are the parameters that it had.
                        raise GPT2JaxError(diagnose(config, place, state.params, step - 1, done_ABT1))
                    if note := tracing.end(step, clock, state):
                        log.say(note)
                    log.progress(step)
                    if step == training.steps or step % training.log_interval == 0:
                        row = training_row(config, metrics, step, logged, clock, speed, corpus.windows.filled)
                        logged = step
                        log.write(row, train_line(row, config))
                        log.progress(step, bar_text(row, config))
                        stop_if_skipping(row, training.max_skipped, checkpoints.latest_step())
                    stopping = bool(stop)  # Looked at once a step: a signal that comes later stops after the next one.
                    if due := pauses.due(step, metrics, stopping):
                        ended_early = pauses.take(due, state, step)
            except GPT2JaxError as error:
                if step > start:
                    with contextlib.suppress(GPT2JaxError):  # A full disk may have no room for this either.
                        report(step, str(error))
                raise

            row = next((row for row in reversed(log.rows) if "validation_loss" in row), {})
            if step == start:  # Nothing was left to do: say how the model stands.
                log.say(f"{run_dir} is at step {step} of {training.steps}: nothing was trained")
                if found := pauses.validate(state.params, step):
                    row = found
                    log.say(validation_line(row))
            # What was killed between its last checkpoint and this has no report yet.
            if step > start or not (run_dir / "report.md").exists():
                report(step, ended_early)
            if ended_early:
                log.say(ended_early)
            params, params_step = lora.merged(state.params, config.lora), step
            finished = step == training.steps or bool(ended_early)
            if finished:
                params, params_step = conclude(config, place, checkpoints, samples, params, step, log.say)
            else:
                log.say(stopped_line(training.run_dir, step, stop[0].name))
    return Result(
        step=step,
        stopped_by=None if finished else stop[0],
        params=params,
        params_step=params_step,
        encoding=encoding,
        validation_loss=row.get("validation_loss"),
        bits_per_byte=row.get("bits_per_byte"),
        ended_early=bool(ended_early),
    )
