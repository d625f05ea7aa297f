"""`gpt2jax report`: the table and the picture of several runs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2jax import config as settings
from gpt2jax.cli import main
from gpt2jax.config import Config, ModelConfig, TrainingConfig
from gpt2jax.train.compare import Run, differing, table
from gpt2jax.train.rows import Row
from gpt2jax.train.sessions import Sessions


def make_run(folder: Path, rows: list[Row], **training: object) -> str:
    folder.mkdir()
    model = ModelConfig(n_vocab=257, n_ctx=16, n_embd=32, n_head=4, n_layer=2)
    given = {"run_dir": str(folder), "batch_size": 8, "steps": 40, **training}
    (folder / "config.yaml").write_text(settings.to_yaml(Config(model=model, training=TrainingConfig(**given))))  # type: ignore[arg-type]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def train_row(step: int, loss: float, **more: float) -> Row:
    return {"step": step, "loss": loss, "train_seconds": 2.0 * step, **more}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One that has ended, one that is running, one that has not got to its first row."""
    monkeypatch.chdir(tmp_path)
    ended = [train_row(10, 4.0, mfu=0.3), train_row(40, 3.0, mfu=0.5)]
    validation: Row = {"validation_loss": 3.5, "bits_per_byte": 5.0, "train_seconds": 40.0, "step": 20}
    ended += [
        validation,
        validation | {"step": 40, "validation_loss": 3.6, "bits_per_byte": 5.2, "train_seconds": 80.0},
    ]
    make_run(tmp_path / "ended", ended, device_watts=100.0)
    sessions = Sessions(tmp_path / "ended", 0, 34208, 2, "cpu")
    sessions.note(20)
    sessions = Sessions(tmp_path / "ended", 20, 34208, 4, "cpu")
    sessions.note(40)
    path = tmp_path / "ended" / "sessions.json"
    value = json.loads(path.read_text())
    value["sessions"][0]["seconds"], value["sessions"][1]["seconds"] = 3600.0, 1800.0
    path.write_text(json.dumps(value))
    make_run(tmp_path / "running", [train_row(10, 4.5)], seed=7)
    with (tmp_path / "running" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    make_run(tmp_path / "new", [])
    return ["ended", "running", "new"]


def test_the_figures_are_those_of_the_runs(runs: list[str]) -> None:
    ended, running, new = (Run.read(run).figures() for run in runs)
    assert ended == {
        "parameters": 34208,
        "step": 40,
        "of steps": 40,
        "tokens": 40 * 8 * 16,
        "best validation loss": 3.5,
        "at step": 20,
        "last validation loss": 3.6,
        "best bits per byte": 5.0,
        "hours": 1.5,
        "tokens/s": 40 * 8 * 16 / 80.0,
        # Ten steps at 30 %, thirty at 50 %.
        "MFU %": pytest.approx(45.0),
        # Two devices for an hour, four for half of one, at 100 W.
        "energy kWh": pytest.approx(0.4),
    }
    assert (running["step"], running["tokens/s"], running["best validation loss"]) == (10, 64.0, None)
    assert (running["hours"], running["energy kWh"], running["MFU %"]) == (None, None, None)
    assert (new["step"], new["tokens/s"]) == (0, None)


def test_the_command_shows_a_table_what_differs_and_a_picture(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *runs, "ended", "--csv", "table.csv"]) == 0
    out = capsys.readouterr().out
    names, *lines = out.splitlines()
    assert names.split()[:3] == ["run", "parameters", "step"]
    figures = "34,208 40 40 5,120 3.5000 20 3.6000 5.0000 1.5000 64 45.0 0.4000"
    assert " ".join(lines[0].split()) == f"ended {figures}"
    assert lines[1].split()[:5] == ["running", "-", "10", "40", "1,280"]
    assert "training.seed" in out
    assert ["training.device_watts", "100.0", "None", "None"] in [line.split() for line in lines]
    assert "training.run_dir" not in out
    assert out.endswith("\npicture: compare.png   numbers: table.csv\n")
    assert Path("compare.png").read_bytes().startswith(b"\x89PNG")
    with open("table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["last validation loss"], row["hours"]) for row in rows] == [
        ("ended", "3.6", "1.5"),
        ("running", "", ""),
        ("new", "", ""),
    ]
    assert differing([Run.read("ended"), Run.read("ended")]) == []
    assert len(table([Run.read("ended")])) == 2


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "report: needs a run's folder, or several"),
        (["none"], "none: no such folder; expected a run's"),
        (["."], ".: no run's folder: it holds no config.yaml; `gpt2jax train` makes runs"),
        (["ended", "--output", "x.jpg"], "--output: x.jpg: should end in .png"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    runs: list[str], capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    assert main(["report", *args]) == 2
    assert capsys.readouterr().err == f"gpt2jax: {line}\n"
    assert sorted(path.name for path in Path().iterdir()) == sorted(runs)


def test_it_does_not_import_jax(runs: list[str]) -> None:
    code = (
        "import sys; from gpt2jax.cli import main; assert main(['report', 'ended', 'new']) == 0;"
        "assert 'matplotlib' in sys.modules; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
