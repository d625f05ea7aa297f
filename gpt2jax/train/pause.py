"""What is done between two steps while their clock stands: validation, checkpoint, samples, picture."""

import dataclasses

import jax

from gpt2jax import lora
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.parameters import Params
from gpt2jax.record import Adapters, Meta
from gpt2jax.train.clock import Clock
from gpt2jax.train.corpus import Corpus
from gpt2jax.train.guard import stop_if_lost
from gpt2jax.train.lines import validation_line
from gpt2jax.train.patience import counts, is_best, out_of_patience
from gpt2jax.train.plots import Picture
from gpt2jax.train.rows import Row
from gpt2jax.train.runlog import RunLog
from gpt2jax.train.samples import Samples
from gpt2jax.train.sessions import Sessions
from gpt2jax.train.start import learned_state
from gpt2jax.train.step import Metrics, TrainState
from gpt2jax.train.validation import Evaluator


@dataclasses.dataclass(frozen=True)
class Due:
    """What a pause is for; pictures and the note of the session come with any."""

    validate: bool
    save: bool
    sample: bool


@dataclasses.dataclass(frozen=True)
class Pauses:
    """The pauses of a run, with all that they write to."""

    config: Config
    corpus: Corpus
    adapters: Adapters | None
    """What checkpoints are to say of adapters."""
    evaluate: Evaluator | None
    """None where nothing was held out."""
    checkpoints: Checkpoints
    samples: Samples
    picture: Picture
    log: RunLog
    sessions: Sessions
    clock: Clock

    def due(self, step: int, metrics: Metrics, stopping: bool) -> Due | None:
        """What is due after ``step``; None where the next step can follow at once.

        Args:
            stopping: whether the run stops here by a signal, which saves.
        """
        training = self.config.training
        last = step == training.steps
        validate = last or step % training.eval_interval == 0
        save = last or step % training.checkpoint_interval == 0 or stopping
        if save and not last and not stopping and float(metrics["skipped"]):
            self.log.say(f"step {step}: skipped, as the checkpoint is that was due")
            save = False
        sample = self.samples.due(step) and not last
        return Due(validate, save, sample) if validate or save or sample or self.picture.due() else None

    def take(self, due: Due, state: TrainState, step: int) -> str:
        """Do what is due after ``step``.

        Returns:
            Why patience ends the run here, or nothing when it goes on.

        Raises:
            GPT2JaxError: the validation loss is not finite, or the checkpoint before this could not be written.
        """
        jax.block_until_ready(state)
        self.clock.pause(step)
        training, rows = self.config.training, self.log.rows
        save, loss, ended_early = due.save, None, ""
        if due.validate or due.save:
            row = self.validate(state.params, step)
            if row:
                self.log.write(row, validation_line(row))
                stop_if_lost(row, self.checkpoints.latest_step())
                loss = row["validation_loss"] if not training.patience or counts(row, training) else None
                ended_early = out_of_patience(rows, training)
                save |= bool(ended_early) or bool(training.patience and is_best(rows, training))
        if save:
            meta = Meta(step, self.config.model, self.corpus.encoding, loss, adapters=self.adapters)
            self.checkpoints.save(learned_state(state), meta)
        if due.sample and not ended_early:  # After the checkpoint, which it could cost; killed between, it comes later.
            self.sample(state.params, step)
        self.sessions.note(step)
        if note := self.picture.renew(rows):
            self.log.say(note)
        self.clock.resume(step)
        return ended_early

    def validate(self, params: Params, step: int) -> Row | None:
        """The row of a validation, which is not written; None where nothing was held out."""
        return self.evaluate(params, step, self.clock.total) if self.evaluate else None

    def sample(self, params: Params, step: int) -> None:
        self.log.say(self.samples.add(lora.merged(params, self.config.lora), step))

    def catch_up(self, params: Params, step: int) -> None:
        """Write the samples that a run was killed before, after the checkpoint of ``step`` that it goes on from."""
        if self.samples.due(step) and self.samples.lacks(step):
            self.sample(params, step)
