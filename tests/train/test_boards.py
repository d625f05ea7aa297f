"""TensorBoard's files, read back; and Weights & Biases, by a module of that name that notes what it is told."""

import json
import re
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gpt2jax.config import Config, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.boards import TensorBoard, WandB, check_wandb
from gpt2jax.train.rows import Row, read_rows
from gpt2jax.train.runlog import RunLog

FAKE = """
import json, os

class Run:
    def __init__(self, options):
        self.path = os.path.join(options["dir"], "told.jsonl")
        self.tell("init", options)

    def tell(self, what, value):
        with open(self.path, "a") as file:
            file.write(json.dumps([what, value], default=str) + "\\n")

    def define_metric(self, name, step_metric=None):
        self.tell("metric", [name, step_metric])

    def log(self, row):
        self.tell("log", row)

    def finish(self):
        self.tell("finish", None)

def init(**options):
    if options["project"] == "closed":
        raise RuntimeError("no API key configured\\nand more")
    return Run(options)
"""


def event_files(run: Path) -> list[list[Event]]:
    """Each file's events, in the order in which TensorBoard reads files."""
    return [list(_events(path.read_bytes())) for path in sorted((run / "tensorboard").glob("*tfevents*"))]


def _events(data: bytes) -> Iterator[Event]:
    while len(data) > 12:  # A record: its length, a checksum of that, itself, a checksum of that.
        end = 12 + struct.unpack("<Q", data[:8])[0]
        if end + 4 > len(data):
            return  # The disk was full.
        yield Event.FromString(data[12:end])
        data = data[end + 4 :]


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard draws: a start hides what files before it have of its step and of later ones."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in (event for file in event_files(run) for event in file):
        if event.session_log.status == SessionLog.START:
            curves = {name: [point for point in curve if point[0] < event.step] for name, curve in curves.items()}
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_tensorboard_shows_each_step_once_however_often_a_run_starts(tmp_path: Path) -> None:
    for start, loss in ((0, 4.0), (2, 3.0), (2, 2.0)):  # Killed twice after step 4, with a checkpoint of step 2.
        with RunLog(tmp_path, start, 4) as log:
            for step in range(start + 1, 5):
                log.write({"step": step, "loss": loss, "gradient_norm": 0.5}, "")
    assert shown(tmp_path) == {
        "loss": [(1, 4.0), (2, 4.0), (3, 2.0), (4, 2.0)],
        "gradient_norm": [(step, 0.5) for step in (1, 2, 3, 4)],
    }
    assert [file[0].file_version for file in event_files(tmp_path)] == ["brain.Event:2"] * 3
    # The same as in metrics.jsonl.
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path)] == shown(tmp_path)["loss"]


def test_what_is_written_can_be_read_while_the_run_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = TensorBoard(tmp_path, 1)
    board.write({"step": 1, "loss": 1.0})
    assert shown(tmp_path) == {}  # Not each row waits for the disk.
    monkeypatch.setattr("gpt2jax.train.boards._FLUSH_SECONDS", -1.0)
    board.write({"step": 2, "loss": 2.0})
    assert shown(tmp_path) == {"loss": [(1, 1.0), (2, 2.0)]}
    board.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can have more than 20,000 bytes, which the system enforces as it does a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows(count: int, numbers: int) -> list[Row]:
    return [{"step": step} | {f"number_{index}": 0.5 for index in range(numbers)} for step in range(1, count + 1)]


@pytest.mark.usefixtures("small_files")
def test_a_board_that_cannot_be_written_is_told_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An event of 60 bytes for each number, and a row of 20 bytes: it was to wait forever, after ten more events."""
    with RunLog(tmp_path, 0, 600) as log:
        for row in rows(600, 1):
            log.write(row, f"step {row['step']}")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("step ")] == [
        f"{tmp_path}/tensorboard: cannot be written (File too large); what follows is not in it"
    ]
    assert len(read_rows(tmp_path)) == 600
    drawn = shown(tmp_path)["number_0"]
    assert 100 < len(drawn) < 600
    assert drawn == [(step, 0.5) for step in range(1, len(drawn) + 1)]


@pytest.mark.usefixtures("small_files")
def test_rows_that_cannot_be_written_end_the_run_with_a_line(tmp_path: Path) -> None:
    """The twin: metrics.jsonl is what a run goes on from."""

    def run() -> None:
        with RunLog(tmp_path, 0, 600) as log:
            for row in rows(600, 20):
                log.write(row, "")

    line = f"{tmp_path}/metrics.jsonl: cannot be written (File too large)"
    with pytest.raises(GPT2JaxError, match=f"^{re.escape(line)}$"):
        run()
    kept = read_rows(tmp_path)
    assert kept == rows(600, 20)[: len(kept)]
    assert len(kept) > 20


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, and wandb to be imported."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    return run


def config(project: str | None) -> Config:
    return Config(training=TrainingConfig(wandb=project))


def test_one_run_there_however_often_it_starts_here(fake: Path) -> None:
    check_wandb(config("project"))
    for start in (0, 2):
        with RunLog(fake, start, 4, board=lambda: WandB(config("project"), fake)) as log:
            log.write({"step": start + 1, "loss": 3.0}, "")
    told = [json.loads(line) for line in (fake / "told.jsonl").read_text().splitlines()]
    one = [["metric", ["step", None]], ["metric", ["*", "step"]]]
    assert told[1:3] == one
    assert [what for what, _ in told] == ["init", "metric", "metric", "log", "finish"] * 2
    assert [value for what, value in told if what == "log"] == [{"step": 1, "loss": 3.0}, {"step": 3, "loss": 3.0}]
    first, second = (value for what, value in told if what == "init")
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("project", "mine", "allow")
    assert first["id"] == (fake / "wandb_id.txt").read_text().strip()
    assert first["config"]["training"]["wandb"] == "project"
    # Another run is another one.
    other = fake.with_name("other")
    other.mkdir()
    WandB(config("project"), other)
    assert (other / "wandb_id.txt").read_text() != (fake / "wandb_id.txt").read_text()


def test_what_keeps_wandb_from_starting_is_one_line(fake: Path) -> None:
    with pytest.raises(GPT2JaxError) as caught:
        WandB(config("closed"), fake)
    assert str(caught.value) == (
        "training.wandb: closed: W&B did not start (no API key configured); WANDB_MODE=offline does without its server"
    )


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()  # Where W&B has been used, there is a folder of that name; it is not the package.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    check_wandb(config(None))
    with pytest.raises(GPT2JaxError) as caught:
        check_wandb(config("project"))
    assert str(caught.value) == (
        "training.wandb: project: the package wandb is not installed; pip install 'gpt2jax[wandb]'"
    )
