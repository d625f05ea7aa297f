"""The checkpoints of a run: written in the background, kept as the settings say, the newest whole one found again."""

import contextlib
import dataclasses
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from gpt2jax import checkpoint
from gpt2jax.distributed import is_primary, wait_for_all
from gpt2jax.errors import GPT2JaxError, GPT2JaxWarning
from gpt2jax.files import remove_folder
from gpt2jax.record import DamagedError, Meta, describe

T = TypeVar("T")

# Where checkpoints go before their files are removed: one whose removal was cut short is not taken for a whole one.
_DELETED = "deleted"
# In the name of one that is being written: Orbax renames it when it is whole.
_HALF = ".orbax-checkpoint-tmp"
# An array that several devices hold is cut for them, and each writes a part, if that has so many bytes. To cut it, each
# compiles a program: for a state of half a megabyte four CPU devices took 2 s.
_PART_BYTES = 2**20


class Checkpoints:
    """The checkpoints of one run: written in the background, the newest few and the best kept.

    Use as a context manager: leaving it waits for writes in flight and raises what went wrong in them.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int = 2,
        keep_best: int = 1,
        keep_every: int = 0,
        read_only: bool = False,
    ) -> None:
        """Open ``folder``, which is made unless ``read_only``; what a killed run left half done in it is removed.

        Args:
            keep_last: newest checkpoints to keep,
            keep_best: beside those with the lowest validation losses,
            keep_every: and those whose step is a multiple of this (0: of none).

        Raises:
            GPT2JaxError: the folder cannot be made or written to.
        """
        # Orbax logs every save and restore, and warns of what is as it should be here; what goes wrong is raised.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = Path(folder).absolute()
        self._read_only = read_only
        self._writing: int | None = None
        self._removal: threading.Thread | None = None
        self._errors: list[Exception] = []
        self._parts: list[_Noting] = []
        self._kept = _Kept(keep_last, keep_best, keep_every)
        if not read_only:
            # Of the writes that fail with one that did, Python would tell one by one, when each is forgotten.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
            self._open()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            enable_async_checkpointing=not read_only,
            cleanup_tmp_directories=False,
            create=not read_only,
            read_only=read_only,
            todelete_subdir=None if read_only else _DELETED,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": _noting(_state_handler(), self._parts, self._errors),
                "meta": _noting(ocp.JsonCheckpointHandler(), self._parts, self._errors),
            },
        )
        for step in () if read_only else self.steps():
            with contextlib.suppress(GPT2JaxError):  # It is no best one; restoring will tell.
                if (loss := self.read_meta(step).validation_loss) is not None:
                    self._kept.losses[step] = loss

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GPT2JaxError(f"{self.folder}: cannot be made ({error.strerror})") from None
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise GPT2JaxError(f"{self.folder}: checkpoints cannot be written there (no permission, or read-only)")
        self._sweep()
        if is_primary():  # Orbax would do it in the background, and may end before it is done.
            for half in self.folder.glob(f"*{_HALF}*"):
                remove_folder(half)

    def _sweep(self) -> None:
        """Remove the files of checkpoints that are no longer kept."""
        if is_primary() and not self._read_only:
            remove_folder(self.folder / _DELETED)

    def __enter__(self) -> Self:
        self._listen = checkpoint.ignore_the_rest()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if jax.process_count() > 1 and (self._errors or isinstance(error, RuntimeError)):
            # The others wait for this one in the write that failed, or are gone, as jax says by that error: the end of
            # the process ends theirs, and waiting for them would keep it from saying why.
            return
        try:
            self.wait()
        except GPT2JaxError:
            if error is None:
                raise
        finally:
            with contextlib.suppress(Exception):  # What there was to tell has been told.
                self._manager.close()
        if error is None:
            self._listen()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Of the kept one with the lowest validation loss, the earliest of equal ones."""
        ranked = self._kept.ranked(self.steps())
        return ranked[0] if ranked else None

    def save(self, state: Any, meta: Meta) -> None:
        """Start writing ``state``; it may be donated as soon as this returns.

        Raises:
            GPT2JaxError: it cannot be written, or the save before it could not; or a checkpoint of this step or a
                later one exists (Orbax would skip the save in silence).
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and meta.step <= latest:
            raise GPT2JaxError(f"checkpoint of step {meta.step}: {self.folder} already holds step {latest}")
        meta = dataclasses.replace(meta, leaves=describe(state))
        if meta.validation_loss is not None:
            self._kept.losses[meta.step] = meta.validation_loss
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta.to_json()))
        self._writing = meta.step
        with self._written():
            if not self._manager.save(meta.step, args=items):
                raise GPT2JaxError(f"checkpoint of step {meta.step}: Orbax did not save it in {self.folder}")

    def check(self) -> None:
        """Raise what went wrong in the background since the last save, if it is known by now; never waits.

        Raises:
            GPT2JaxError: the last save has failed.
        """
        if self._errors:
            with self._written():
                raise self._errors[0]
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self._finish()

    def wait(self) -> None:
        """Wait for the write in flight, if there is one, and for the files of those that are no longer kept to be gone.

        Raises:
            GPT2JaxError: it has failed.
        """
        if self._writing is not None:
            self._finish()
        if self._removal is not None:
            self._removal.join()
            self._removal = None

    def _finish(self) -> None:
        """Wait for the write in flight, and begin to remove what it has replaced."""
        with self._written():
            self._manager.wait_until_finished()
        self._writing = None
        self._parts.clear()  # They may hold what they wrote, a copy of the state, until the next save.
        # Beside the steps: many files take a while, and would count as a step's time.
        self._removal = threading.Thread(target=self._sweep, daemon=True)
        self._removal.start()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Turns whatever a failed write raises into one line, and makes room on the disk."""
        try:
            yield
        except GPT2JaxError:
            raise
        except Exception as error:
            step, self._writing = self._writing, None
            if jax.process_count() == 1:
                # Threads that still write to what is removed below. Orbax waits for no part after the one that failed.
                for unfinished in (self._manager.wait_until_finished, *(part.wait for part in self._parts)):
                    with contextlib.suppress(Exception):
                        unfinished()
                self._parts.clear()
                for half in self.folder.glob(f"{step}{_HALF}*"):
                    remove_folder(half)
            whole = [number for number in checkpoint.steps_in(self.folder) if number != step]
            last = f"the last whole one is of step {max(whole)}" if whole else "there is none yet"
            raise GPT2JaxError(
                f"{self.folder}: the checkpoint of step {step} cannot be written ({checkpoint.reason(error)}); {last}"
            ) from None

    def read_meta(self, step: int) -> Meta:
        return checkpoint.read_meta(self.folder / str(step))

    def restore(self, step: int, abstract: T) -> T:
        """The state of ``step`` (:func:`gpt2jax.checkpoint.restore_state`)."""
        return checkpoint.restore_state(self.folder / str(step), abstract)

    def restore_newest(self, abstract: T, fits: Callable[[Meta], None]) -> tuple[Meta, T] | None:
        """The newest checkpoint that is whole, or None where there is no checkpoint at all.

        Newer ones, which are damaged, are then renamed to STEP.damaged, and a warning says so.

        Args:
            fits: raises when a checkpoint is not of the run that is to go on from it.

        Raises:
            GPT2JaxError: it does not fit, or all are damaged: they stay where they are.
        """
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                meta = self.read_meta(step)
                fits(meta)
                state = self.restore(step, abstract)
            except DamagedError as error:
                damaged[step] = error
                continue
            for number, reason in sorted(damaged.items()):
                self._set_aside(number, f"{reason}: going on from step {step}")
            return meta, state
        if damaged:
            reasons = "; ".join(map(str, damaged.values()))
            raise GPT2JaxError(f"{self.folder}: no checkpoint to go on from: {reasons}")
        return None

    def _set_aside(self, step: int, line: str) -> None:
        if is_primary():
            name = aside = f"{step}.damaged"
            count = 1
            while (self.folder / aside).exists():
                count += 1
                aside = f"{name}-{count}"
            (self.folder / str(step)).rename(self.folder / aside)
            warnings.warn(f"{line}; it is now {self.folder.name}/{aside}", GPT2JaxWarning, stacklevel=3)
        wait_for_all()
        self._kept.losses.pop(step, None)
        self._manager.reload()


@dataclasses.dataclass
class _Kept:
    """Which checkpoints of a run stay, as Orbax asks it after a save."""

    last: int
    best: int
    every: int
    losses: dict[int, float] = dataclasses.field(default_factory=dict)
    """Validation loss by step. Not left to Orbax, which forgets it when the run is started again."""

    def ranked(self, steps: Sequence[int]) -> list[int]:
        """Those of ``steps`` with a validation loss, the lowest first; of equal ones the earlier, as for patience."""
        return sorted((step for step in steps if step in self.losses), key=lambda step: (self.losses[step], step))

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = sorted(info.step for info in checkpoints)
        kept = {*steps[-self.last :], *self.ranked(steps)[: self.best]}
        return [info.step in kept or bool(self.every and info.step % self.every == 0) for info in checkpoints]


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    """Orbax's, of trees of arrays, with ``_PART_BYTES``, which its registry for all programs has no place for."""
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_PART_BYTES)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    )


class _Noting:
    """A part of a write in the background; its error is noted at once, whatever waits for it."""

    def __init__(self, part: Any, errors: list[Exception]) -> None:
        self._part, self._errors = part, errors

    def result(self, timeout: int | None = None) -> Any:
        try:
            return self._part.result(timeout)
        except Exception as error:
            self._errors.append(error)
            raise

    def wait(self) -> None:
        """Until it is done, or has failed, which it raises and does not note."""
        self._part.result()


def _noting(handler: Any, parts: list[_Noting], errors: list[Exception]) -> Any:
    """``handler``, whose parts of a write in the background are put into ``parts`` and their errors into ``errors``:
    Orbax itself tells of one only when all processes have come together, which they do not where one of them could not
    write."""
    save = handler.async_save

    async def async_save(*args: Any, **kwargs: Any) -> list[Any]:
        noting = [_Noting(part, errors) for part in await save(*args, **kwargs) or []]
        parts.extend(noting)
        return noting

    handler.async_save = async_save
    return handler
