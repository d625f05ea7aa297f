"""What a run tells while it goes: metrics.jsonl, the boards, and the terminal."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.train.boards import Board, TensorBoard
from gpt2jax.train.rows import METRICS_FILE, Row, read_rows


class RunLog:
    """Rows of numbers, a step each, to every place where people look for them."""

    def __init__(
        self,
        run_dir: Path,
        start_step: int,
        total_steps: int,
        silent: bool = False,
        board: Callable[[], Board] | None = None,
    ) -> None:
        """Open the logs of ``run_dir``; what an interrupted run wrote past ``start_step`` is dropped, to come again.

        Args:
            silent: write and say nothing, in all processes of a run but one.
            board: makes another board, beside TensorBoard's.
        """
        # In every process: when a run ends is a function of its rows.
        self.rows: list[Row] = [row for row in read_rows(run_dir) if row["step"] <= start_step]
        self.silent = silent
        self._bar: Progress | None = None
        self._boards: list[Board] = []
        if silent:
            return
        path = run_dir / METRICS_FILE
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        # Events from the purge step on are those of steps that will be done again.
        self._boards = [TensorBoard(run_dir, purge_step=start_step + 1)]
        if board:
            self._boards.append(board())
        self._file = path.open("a", encoding="utf-8")
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar.start()
            self._task = self._bar.add_task("train", total=total_steps, completed=start_step, text="compiling")

    def write(self, row: Row, text: str) -> None:
        """Keep ``row`` (with its ``step``) and show ``text``. A board that cannot be written is told once, and left.

        Raises:
            GPT2JaxError: metrics.jsonl cannot be written.
        """
        self.rows.append(row)
        if self.silent:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise GPT2JaxError(f"{self._file.name}: cannot be written ({error.strerror or error})") from None
        for board in tuple(self._boards):
            self._attempt(board, functools.partial(board.write, row))
        self.say(text)

    def progress(self, step: int, text: str | None = None) -> None:
        """Move the bar, with ``text`` beside it from now on. Without a terminal this shows nothing."""
        if self._bar:
            self._bar.update(self._task, completed=step)
            if text is not None:
                self._bar.update(self._task, text=text)

    def say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self.silent:
            print(text, flush=True)

    def _attempt(self, board: Board, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._boards.remove(board)
            with contextlib.suppress(OSError):
                board.close()
            self.say(f"{board.name}: cannot be written ({error.strerror or error}); what follows is not in it")

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # Each is closed, whatever befalls another.
            for board in tuple(self._boards):
                stack.callback(self._attempt, board, board.close)  # Which writes what it still holds.
            if not self.silent:
                stack.callback(self._file.close)
            if self._bar:
                stack.callback(self._bar.stop)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        # On a full disk this fails like what came before it, which is what there is to tell.
        with contextlib.suppress(*([OSError] if kind else [])):
            self.close()
