"""Training, told as one story from the settings to the last checkpoint."""

import contextlib
import dataclasses
import math
import signal
from pathlib import Path

import jax
import tiktoken

from gpt2jax.attention import describe_attention
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.data.pipeline import open_split
from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import remove_partial
from gpt2jax.parameters import Params, count
from gpt2jax.record import Meta
from gpt2jax.train.batches import device_batches
from gpt2jax.train.boards import WandB, check_wandb
from gpt2jax.train.clock import Clock
from gpt2jax.train.diagnose import diagnose
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.guard import too_many_skipped
from gpt2jax.train.lines import bar_text, headline, train_line, validation_line
from gpt2jax.train.measure import training_row
from gpt2jax.train.plots import Picture
from gpt2jax.train.profile import Profile
from gpt2jax.train.report import write_report
from gpt2jax.train.resume import check_resumable, given_params, resume_notes, write_config
from gpt2jax.train.rows import Row
from gpt2jax.train.runlog import RunLog
from gpt2jax.train.samples import Draw, Samples
from gpt2jax.train.sessions import Sessions
from gpt2jax.train.step import abstract_state, init_state, make_place, make_train_step
from gpt2jax.train.stopping import agree_to_stop, stop_signals
from gpt2jax.train.utilization import Utilization
from gpt2jax.train.validation import Evaluator


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
        GPT2JaxError: data, mesh, settings and the checkpoint in the folder do not fit together, or too many steps in a
            row were skipped.
    """
    # The data, and whether it is this model's.
    model, training = config.model, config.training
    check_wandb(config)
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
    keep = training.keep_last, training.keep_best, training.keep_every
    with Checkpoints(run_dir / "checkpoints", *keep) as checkpoints, stop_signals() as stop:
        # The state: from the newest whole checkpoint of this run, else from the weights to start from, else fresh.
        found = checkpoints.restore_newest(
            abstract_state(config, place), lambda meta: check_resumable(config, meta, encoding, run_dir)
        )
        start = found[0].step if found else 0
        notes = resume_notes(config, found[0], run_dir) if found else []
        tracing = Profile(profile, start, training.steps, run_dir / "profile")
        if found:
            state = found[1]
        elif training.init_from:
            state = init_state(config, place, given_params(config, place, encoding))
        else:
            state = init_state(config, place)
        if is_primary():
            remove_partial(run_dir)
            write_config(config, run_dir)

        utilization = Utilization(model, place.mesh)
        wandb = (lambda: WandB(config, run_dir)) if training.wandb else None
        with (
            tracing,
            Sessions(run_dir, start, count(model), utilization.devices, utilization.kind, not is_primary()) as sessions,
            RunLog(run_dir, start, training.steps, not is_primary(), wandb) as log,
            contextlib.closing(device_batches(config, place, windows, start, micro_batch)) as batches,
        ):
            for line in (headline(config, place, windows, held_out), f"attention: {kernel}", utilization.line()):
                log.say(line)
            if training.init_from and not start:
                log.say(f"starting from the weights of {training.init_from}")
            if start:
                log.say(f"resumed {run_dir} at step {start} of {training.steps}")
            for note in notes:
                log.say(note)
            train_step = make_train_step(config, place)
            evaluate = Evaluator(config, place, held_out, micro_batch, bytes_per_token)
            clock = Clock(sum(row["train_seconds"] for row in log.rows[-1:]))
            picture = Picture(run_dir / "loss.png", str(run_dir), sessions.restarts, silent=not is_primary())
            samples = Samples(config, encoding, place, start, draw)
            if samples.missed(start):
                log.say(samples.add(state.params, start))

            def report(step: int, fault: str = "") -> None:
                sessions.note(step)
                if is_primary():
                    path = run_dir / "report.md"
                    write_report(config, place.mesh, log.rows, sessions.all, path, command, kernel, fault)

            step = logged = start
            windows_ABT1 = next(batches)
            while step < training.steps and not stop:
                compiles = step == start or step in training.ramp
                if compiles:  # Wait for what is under way, and for this step; start the clock after it.
                    jax.block_until_ready(state)
                    clock.pause(step)
                    # One program for all batches of this size: what it would have to be traced again for is an error.
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
                if step % training.log_interval == 0 or step == training.steps:
                    row = training_row(config, metrics, step, logged, clock, utilization)
                    logged = step
                    log.write(row, train_line(row, config))
                    log.progress(step, bar_text(row, config))
                    if fault := too_many_skipped(row, training.max_skipped):
                        fault += f"; {_way_back(checkpoints)}"
                        report(step, fault)
                        raise GPT2JaxError(fault)
                validate = step % training.eval_interval == 0 or step == training.steps
                save = step % training.checkpoint_interval == 0 or step == training.steps or bool(stop)
                if save and step < training.steps and not stop and float(metrics["skipped"]):
                    log.say(f"step {step}: skipped, as the checkpoint is that was due")
                    save = False
                sample = samples.due(step)
                if validate or save or sample or picture.due():
                    jax.block_until_ready(state)
                    clock.pause(step)
                    if validate or save:
                        row = evaluate(state.params, step, clock.total)
                        log.write(row, validation_line(row))
                        _check_finite("validation_loss", row, checkpoints)
                    if save:
                        checkpoints.save(state, Meta(step, model, encoding, row["validation_loss"]))
                    if sample:  # After the checkpoint, which it could cost; a run that was killed between makes it up.
                        log.say(samples.add(state.params, step))
                    sessions.note(step)
                    picture.draw(log.rows)
                    clock.resume(step)

            if step == start:  # Nothing was left to do: say how the model stands.
                row = evaluate(state.params, step, clock.total)
                log.say(f"{run_dir} is at step {step} of {training.steps}: nothing was trained")
                log.say(validation_line(row))
                if not (run_dir / "report.md").exists():  # It was killed between its last checkpoint and this.
                    report(step)
            else:
                row = next(row for row in reversed(log.rows) if "validation_loss" in row)
                report(step)
            if stop:
                log.say(
                    f"stopped at step {step} by {stop[0].name}; resume with: gpt2jax train --resume {run_dir}, or the"
                    " same command"
                )
    return Result(
        step, stop[0] if stop else None, state.params, encoding, row["validation_loss"], row.get("bits_per_byte")
    )


def _open_run_dir(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GPT2JaxError(f"training.run_dir: {run_dir}: cannot be made ({error.strerror})") from None


def _check_finite(name: str, row: Row, checkpoints: Checkpoints) -> None:
    """Stop before numbers that are lost reach a checkpoint."""
    if not math.isfinite(row[name]):
        back = _way_back(checkpoints)
        raise GPT2JaxError(f"step {row['step']}: {name} is {row[name]}, try a lower optimizer.learning_rate; {back}")


def _way_back(checkpoints: Checkpoints) -> str:
    latest = checkpoints.latest_step()
    return f"the last checkpoint is of step {latest}" if latest else "there is no checkpoint yet"
