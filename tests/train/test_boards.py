"""Weights & Biases, by a module of that name that notes what it is told."""

import json
import sys
from pathlib import Path

import pytest

from gpt2jax.config import Config, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.boards import WandB, check_wandb
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
