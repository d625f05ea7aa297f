"""Several runs beside each other: one table and one picture. Without jax, so that it starts fast."""

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import Any, Self

from gpt2jax import config as settings
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.footprint import energy
from gpt2jax.pictures import new_figure, save
from gpt2jax.train.plots import smooth, thin
from gpt2jax.train.rows import Row, mean_mfu, read_rows
from gpt2jax.train.sessions import Session, read_sessions


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder tells, whether it has ended, was interrupted or goes on."""

    name: str
    config: Config
    rows: list[Row]
    parameters: int | None
    sessions: list[Session]

    @classmethod
    def read(cls, folder: str) -> Self:
        """
        Raises:
            GPT2JaxError: the folder is no run's, or a file in it is damaged.
        """
        path = Path(folder)
        if not path.is_dir():
            raise GPT2JaxError(f"{folder}: no such folder; expected a run's")
        if not (path / "config.yaml").is_file():
            raise GPT2JaxError(f"{folder}: no run's folder: it holds no config.yaml; `gpt2jax train` makes runs")
        parameters, sessions = read_sessions(path)
        return cls(folder, settings.load(path / "config.yaml"), read_rows(path), parameters, sessions)

    def of(self, name: str) -> list[Row]:
        return [row for row in self.rows if name in row]

    def tokens(self, step: float) -> int:
        """Trained on in the first ``step`` steps, without padding."""
        training, length = self.config.training, self.config.model.n_ctx
        last = next((row for row in reversed(self.rows) if "tokens" in row), None)
        filled = last["tokens"] / training.positions_before(int(last["step"]), length) if last else 1.0
        return round(filled * training.positions_before(int(step), length))

    def figures(self) -> dict[str, float | None]:
        """The numbers of the table, None where they are not known (yet)."""
        train, validation = self.of("loss"), self.of("validation_loss")
        last = train[-1] if train else None
        whole = [row for row in validation if math.isfinite(row["validation_loss"])]
        best = min(whole, key=lambda row: row["validation_loss"], default=None)
        seconds = last["train_seconds"] if last else 0.0
        steps = last["step"] if last else 0
        hours = [(session.seconds / 3600 * session.devices, session.device_kind) for session in self.sessions]
        kwh = energy(hours, self.config.training.device_watts)[0] if hours else None
        mfu = mean_mfu(self.rows)
        return {
            "parameters": self.parameters,
            "step": steps,
            "of steps": self.config.training.steps,
            "tokens": self.tokens(steps),
            "best validation loss": best["validation_loss"] if best else None,
            "at step": best["step"] if best else None,
            "last validation loss": validation[-1]["validation_loss"] if validation else None,
            "best bits per byte": best.get("bits_per_byte") if best else None,
            "hours": sum(session.seconds for session in self.sessions) / 3600 if self.sessions else None,
            "tokens/s": self.tokens(steps) / seconds if seconds else None,
            "MFU %": None if mfu is None else 100 * mfu,
            "energy kWh": kwh,
        }


def table(runs: list[Run]) -> list[list[str]]:
    """A line of names, and one for each run."""
    figures = [run.figures() for run in runs]
    body = [[_shown(name, value) for name, value in of.items()] for of in figures]
    return [["run", *figures[0]], *([run.name, *line] for run, line in zip(runs, body, strict=True))]


_DIGITS = {"best validation loss": 4, "last validation loss": 4, "best bits per byte": 4, "hours": 4, "energy kWh": 4}


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.{1 if name == 'MFU %' else _DIGITS.get(name, 0)}f}"


def differing(runs: list[Run]) -> list[list[str]]:
    """The settings in which the runs differ, but for their folders: a line of names, and one for each of them."""
    flat = [_flat(dataclasses.asdict(run.config)) for run in runs]
    body = []
    for key in flat[0]:
        values = [str(of[key]) for of in flat]
        if key != "training.run_dir" and len(set(values)) > 1:
            body.append([key, *values])
    return [["setting", *(run.name for run in runs)], *body] if body else []


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, of in config.items() for key, value in of.items()}


def write_csv(runs: list[Run], path: Path) -> None:
    """Write the figures of the table with all their digits, and nothing where one is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [run.figures() for run in runs]
    writer.writerow(["run", *figures[0]])
    for run, of in zip(runs, figures, strict=True):
        writer.writerow([run.name, *("" if value is None else value for value in of.values())])
    write_text(path, text.getvalue())


def draw(runs: list[Run], path: Path) -> None:
    """Draw the validation losses (points) and smoothed training losses (thin) of all runs over steps, tokens and
    hours of training to a PNG."""
    figure = new_figure(13, 5)
    all_axes = figure.subplots(1, 3, sharey=True)
    for axes, across in zip(all_axes, ("step", "tokens", "hours of training"), strict=True):
        for number, run in enumerate(runs):
            color = f"C{number % 10}"
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            train, validation = _with_axes(run, "loss"), _with_axes(run, "validation_loss")
            if train:
                axes.plot(*thin(smooth(train, "loss"), across, "loss"), style, color=color, lw=0.8, alpha=0.5)
            points = thin(validation, across, "validation_loss")
            axes.plot(*points, style, marker="o", color=color, ms=3, label=run.name)
        axes.set_xlabel(across)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("loss (nats per token)\nvalidation: points, training: thin")
    all_axes[0].legend()
    save(figure, path)


def _with_axes(run: Run, name: str) -> list[Row]:
    return [
        row | {"tokens": run.tokens(row["step"]), "hours of training": row["train_seconds"] / 3600}
        for row in run.of(name)
    ]
