"""What a run tells while it goes: metrics.jsonl, TensorBoard, and the terminal."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from gpt2jax.files import parse_json, write_text

Row = dict[str, float]

METRICS_FILE = "metrics.jsonl"


def read_rows(run_dir: str | Path) -> list[Row]:
    """The rows of a run's metrics.jsonl: training rows have ``loss``, validation rows ``validation_loss``.

    A last line that was cut off, by a full disk say, is no row.

    Raises:
        GPT2JaxError: another line is none.
    """
    path = Path(run_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [parse_json(line.encode(), f"{path}: line {number}") for number, line in enumerate(lines, 1)]


class RunLog:
    """Rows of numbers, a step each, to every place where people look for them."""

    def __init__(self, run_dir: Path, start_step: int, total_steps: int, silent: bool = False) -> None:
        """Open the logs of ``run_dir``; what an interrupted run wrote past ``start_step`` is dropped, to come again.

        Args:
            silent: keep rows in memory alone and say nothing, in all processes of a run but one.
        """
        self.rows: list[Row] = []
        self.silent = silent
        self._bar: Progress | None = None
        if silent:
            return
        path = run_dir / METRICS_FILE
        kept = [row for row in read_rows(run_dir) if row["step"] <= start_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.rows = kept
        self._file = path.open("a", encoding="utf-8")
        # Events from the purge step on are those of steps that will be done again.
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1 if kept else None)
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar.start()
            self._task = self._bar.add_task("train", total=total_steps, completed=start_step, text="compiling")

    def write(self, row: Row, text: str) -> None:
        """Keep ``row`` (with its ``step``) and show ``text``."""
        self.rows.append(row)
        if self.silent:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, int(row["step"]))
        self.say(text)

    def progress(self, step: int) -> None:
        """Move the bar. Without a terminal this shows nothing."""
        if self._bar:
            loss = next((f"loss {row['loss']:.4f}" for row in reversed(self.rows) if "loss" in row), "")
            self._bar.update(self._task, completed=step, text=loss)

    def say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self.silent:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        if not self.silent:
            self._file.close()
            self._board.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
