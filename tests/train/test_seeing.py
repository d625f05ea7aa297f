"""What a run shows while it goes: speed, the clock, restarts, samples, a profile, its report."""

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiktoken

from gpt2jax import chips, parameters
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.chips import Chip
from gpt2jax.cli.train import _take_profile
from gpt2jax.config import SamplingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.text import TextModel
from gpt2jax.risks import RISKS
from gpt2jax.train import clock, loop, plots, sessions
from gpt2jax.train.loop import train
from gpt2jax.train.plots import skipped_at, smooth, thin
from gpt2jax.train.rows import Row, mean_mfu, read_rows
from gpt2jax.train.sessions import read_sessions
from gpt2jax.train.validation import Evaluator
from tests.train.test_loop import make


class Time:
    """A clock that stands, but for what is told to take time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def takes(self, function: Any, seconds: float) -> Any:
        """``function`` as one that takes ``seconds``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        return timed


class Timed:
    """A jitted step as the loop uses it: compiling takes 1000 s, a step 2 s."""

    def __init__(self, step: jax.stages.Wrapped, time: Time) -> None:
        self.step, self.time = step, time

    def lower(self, *args: Any) -> "Timed":
        self.lowered = self.step.lower(*args)
        return self

    def compile(self) -> Any:
        return self.time.takes(self.time.takes(self.lowered.compile, 1000.0)(), 2.0)


def fake_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Steps take 2 s, compiling 1000 s; validation, saving, drawing and starting a trace 100 s each."""
    time = Time()
    make_step = loop.make_train_step
    monkeypatch.setattr(clock, "time", time)
    monkeypatch.setattr(loop, "make_train_step", lambda *args: Timed(make_step(*args), time))
    for owner, name in (
        (Evaluator, "__call__"),
        (Checkpoints, "save"),
        (plots, "draw_loss"),
        (jax.profiler, "start_trace"),
        (jax.profiler, "stop_trace"),
    ):
        monkeypatch.setattr(owner, name, time.takes(getattr(owner, name), 100.0))
    monkeypatch.setattr(plots, "INTERVAL", 0.0)  # A picture whenever one could be due.
    monkeypatch.setattr(plots, "SHARE", float("inf"))
    return time


def test_only_steps_are_timed_and_mfu_and_time_left_follow_from_that(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        time = fake_time(patch)
        patch.setitem(chips.CHIPS, "made-up", Chip(("cpu",), 0.001, 1, 1, 1, 1, watts=50.0))
        config = make(corpus, tmp_path / "run", sample_interval=2)
        draw = time.takes(lambda *_: ("many\n", "one"), 100.0)
        train(config, draw=draw, profile=range(3, 4))  # Short: traces of Python are slow to write.
    rows = [row for row in read_rows(tmp_path / "run") if "loss" in row]
    # The first step is compiled with, and not timed.
    assert [row["step_seconds"] for row in rows] == [0.0, *[2.0] * 7]
    assert [row["train_seconds"] for row in rows] == [0.0, *[2.0 * count for count in range(1, 8)]]
    assert {row["tokens_per_second"] for row in rows[1:]} == {8 * 16 / 2.0}
    assert [row["tokens"] for row in rows] == [8 * 16 * step for step in range(1, 9)]
    flops = parameters.train_flops_per_token(config.model, 16)
    share = 8 * 16 * flops / (2.0 * 8 * 0.001e12)
    assert [row.get("mfu") for row in rows] == [None, *[pytest.approx(share)] * 7]
    assert mean_mfu(rows) == pytest.approx(share)
    out = capsys.readouterr().out
    assert out.count("MFU: FLOP of the model (6 N + 12 n_layer n_embd n_ctx per token") == 1
    assert f"64 tokens/s  MFU {100 * share:.1f} %  10 s left" in out
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"| MFU | {100 * share:.1f} %: FLOP of the model" in report
    assert "50 W (its published board power)" in report

    # Twin: a clock that is not stopped counts them, and they show.
    with monkeypatch.context() as patch:
        fake_time(patch)
        pause, resume = clock.Clock.pause, clock.Clock.resume

        def go_on(self: clock.Clock, step: int) -> None:
            if self._since is None:
                resume(self, step)

        def never(self: clock.Clock, step: int) -> None:
            ran = self._since is not None
            pause(self, step)
            if ran:
                resume(self, step)

        patch.setattr(clock.Clock, "resume", go_on)
        patch.setattr(clock.Clock, "pause", never)
        train(make(corpus, tmp_path / "twin"))
    seconds = [row["step_seconds"] for row in read_rows(tmp_path / "twin") if "loss" in row]
    assert max(seconds) > 100.0


def test_restarts_are_kept_and_marked_and_metrics_are_those_of_one_run(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked: list[list[int]] = []
    draw = plots.draw_loss

    def seen(rows: list[Row], path: Path, title: str, restarts: list[int]) -> None:
        marked.append(restarts)
        draw(rows, path, title, restarts)

    time = Time()
    monkeypatch.setattr(sessions, "time", time)
    monkeypatch.setattr(plots, "draw_loss", time.takes(seen, 100))  # These two are all that takes time.
    monkeypatch.setattr(loop, "make_train_step", time.takes(loop.make_train_step, 10))
    run = tmp_path / "run"
    train(make(corpus, run, steps=4))
    assert marked == [[]]
    train(make(corpus, run, device_watts=100.0, cloud_provider="Example", compute_region="north-1"))
    assert marked[1:] == [[4], [4]][: len(marked) - 1]
    count, starts = read_sessions(run)
    assert count == parameters.count(make(corpus, run).model)
    assert [(one.start_step, one.step, one.devices, one.device_kind) for one in starts] == [
        (0, 4, 8, "cpu"),
        (4, 8, 8, "cpu"),
    ]
    train(make(corpus, run))  # Nothing is left to do, and no start.
    assert len(read_sessions(run)[1]) == 2

    report = (run / "report.md").read_text()
    hours = sum(one.seconds for one in starts) / 3600
    assert hours == pytest.approx((100 * len(marked) + 10 * len(starts)) / 3600)
    found = re.search(r"\| hours used \| ([0-9.]+) h, ([0-9.]+) device-hours, in 2 starts \|", report)
    assert found
    assert float(found[1]) == pytest.approx(hours, abs=1e-4)
    assert float(found[2]) == pytest.approx(8 * hours, abs=1e-4)
    grams = re.search(r"\| carbon emitted \| ([0-9.]+) g of CO2 \|", report)
    assert grams
    assert float(grams[1]) == pytest.approx(8 * hours * 0.1 * 475, abs=0.1)
    for line in ("| hardware type | 8 x cpu |", "| cloud provider | Example |", "| compute region | north-1 |"):
        assert line in report
    assert RISKS in report
    (run / "sessions.json").write_text("{}")
    with pytest.raises(GPT2JaxError, match=r"sessions\.json: not what a run writes"):
        read_sessions(run)


def draw_with(sampling: SamplingConfig, config: Any) -> Any:
    def draw(params: Any, encoding: tiktoken.Encoding, place: Any, prompts: list[str]) -> tuple[str, str]:
        assert not prompts  # Of data that has none.
        model = TextModel.from_params(params, config.model, encoding, place)
        first, second = model.write([model.start()], sampling, allow_special=True)[0]
        return f"{first}\n######## step 1\n{second}\n", first

    return draw


def test_samples_are_those_of_a_run_never_stopped(
    corpus: str,
    tmp_path: Path,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make(corpus, tmp_path / "whole", sample_interval=2)
    draw = draw_with(SamplingConfig(max_new_tokens=6, num_samples=2), config)
    result = train(config, draw=draw)
    out = capsys.readouterr().out
    whole = (tmp_path / "whole" / "samples.txt").read_text()
    # What looks like a heading is none.
    assert re.findall(r"^######## step (.+)$", whole, re.MULTILINE) == ["2", "4", "6", "8"]
    assert len(re.findall(r"^ ######## step 1$", whole, re.MULTILINE)) == 4
    assert [int(step) for step in re.findall(r"^step +(\d+)  sample: ", out, re.MULTILINE)] == [2, 4, 6]
    assert compiled.count("jit(decoding_params)") == 1
    # The engine on the mesh writes what it writes on one device.
    alone, _ = draw(jax.device_get(result.params), result.encoding, None, [])
    last = whole.split("\n######## step 8\n")[1]
    assert last == alone.replace("######## step 1", " ######## step 1") + "\n"

    # Twin: they are of parameters that learn.
    blocks = re.split(r"^######## step .+$", whole, flags=re.MULTILINE)[1:]
    assert blocks[0] != blocks[3]

    # Killed between the checkpoint of step 4 and its samples; what is of later steps is dropped.
    class KilledError(Exception):
        pass

    calls = []

    def kill(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KilledError
        return draw(*args)

    killed = make(corpus, tmp_path / "killed", sample_interval=2)
    with pytest.raises(KilledError):
        train(killed, draw=kill)
    written = tmp_path / "killed" / "samples.txt"
    assert re.findall(r"^######## step (\d+)$", written.read_text(), re.MULTILINE) == ["2"]
    with written.open("a") as file:
        file.write("######## step 6\nof a step that is done again\n")
    train(killed, draw=draw)
    assert written.read_text() == whole


def test_a_profile_holds_the_steps_asked_for(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(make(corpus, run, steps=4))
    capsys.readouterr()
    for steps, left in ((range(4, 6), "steps 5 to 8"), (range(8, 10), "steps 5 to 8")):
        with pytest.raises(GPT2JaxError, match=rf"--profile {steps.start}:{steps.stop}: .* are left: {left}"):
            train(make(corpus, run), profile=steps)
    assert not (run / "profile").exists()
    train(make(corpus, run), profile=range(6, 8))
    assert (
        f"profile of steps 6 to 7: {run}/profile; open it with: xprof --logdir {run}/profile" in capsys.readouterr().out
    )
    [trace] = (run / "profile").rglob("perfetto_trace.json.gz")
    assert list((run / "profile").rglob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps_seen = {event["args"].get("step_num") for event in events if event.get("name") == "train"}
    assert steps_seen == {"6", "7"}
    assert any(
        "jit_step" in str(event.get("name")) or "PjitFunction(step)" in str(event.get("name")) for event in events
    )


@pytest.mark.parametrize("given", ["10", "10:", "10:10", "13:10", "0:3", "a:b", "-1:3", "1:2:3", ""])
def test_a_profile_that_is_no_range_is_refused(given: str) -> None:
    with pytest.raises(GPT2JaxError, match=r"--profile: '.*': should be FIRST:END"):
        _take_profile(["--profile", given])


def test_a_profile_that_is_a_range_is_taken() -> None:
    assert _take_profile(["--a", "--profile=10:13", "b"]) == (range(10, 13), ["--a", "b"])
    assert _take_profile(["--profile", "1:2", "b"]) == (range(1, 2), ["b"])
    assert _take_profile(["b"]) == (None, ["b"])


def test_curves_of_many_rows_keep_their_peaks() -> None:
    losses = np.random.default_rng(0).normal(3.0, 0.1, 10_000)
    losses[5000], losses[7000] = 9.0, float("nan")
    rows: list[Row] = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
    steps, drawn = thin(rows, "step", "loss")
    assert len(steps) <= 2 * plots.MAX_POINTS
    assert steps == sorted(steps)
    assert dict(zip(steps, drawn, strict=True))[5000] == 9.0
    assert thin(rows[:1000], "step", "loss") == (list(range(1000)), list(losses[:1000]))
    smoothed = smooth(rows, "loss")
    assert len(smoothed) == 10_000
    inner = [row["loss"] for row in smoothed[100:-100]]
    assert 0 < np.std(inner) < 0.2 * np.nanstd(losses)
    # It does not lag behind: a straight line stays one.
    line: list[Row] = [{"step": step, "loss": float(step)} for step in range(1000)]
    assert [row["loss"] for row in smooth(line, "loss")] == pytest.approx(range(1000))
    assert smooth([{"step": 1, "loss": 5.0}], "loss") == [{"step": 1, "loss": 5.0}]


def test_skipped_steps_are_marked_at_the_rows_that_tell_of_them() -> None:
    counts = [0.0, 2.0, 2.0, 3.0]
    assert skipped_at([{"step": 10.0 * n, "skipped_in_all": count} for n, count in enumerate(counts)]) == [10.0, 30.0]


def test_a_picture_is_due_by_the_clock_and_takes_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    time = Clock()

    def slow(*_: Any) -> None:
        time.now += 2.0

    monkeypatch.setattr(plots, "time", time)
    monkeypatch.setattr(plots, "draw_loss", slow)
    picture = plots.Picture(tmp_path / "loss.png", "run", [])
    assert not picture.due()
    time.now = 30.0
    assert picture.due()
    assert not plots.Picture(tmp_path / "loss.png", "run", [], silent=True).due()
    picture.draw([])
    time.now = 231.9  # It took 2 s: a hundred times that must pass.
    assert not picture.due()
    time.now = 232.0
    assert picture.due()


def test_at_pauses_it_is_renewed_when_the_last_one_is_some_seconds_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, drawn = SimpleNamespace(now=0.0), []
    time.monotonic = lambda: time.now
    monkeypatch.setattr(plots, "time", time)
    monkeypatch.setattr(plots, "draw_loss", lambda *_: drawn.append(time.now))
    picture = plots.Picture(tmp_path / "loss.png", "run", [])
    rows: list[Row] = []
    for time.now in (1.0, 4.9, 5.0, 9.9, 10.0, 15.0):
        rows += [{"step": time.now}] if time.now < 15.0 else []
        picture.renew(rows)
    assert drawn == [5.0, 10.0]  # Since then nothing new has come,
    picture.draw(rows)
    assert drawn == [5.0, 10.0]
    picture.draw([*rows, {"step": 16.0}])  # and now the end of the run, whenever that is.
    assert drawn == [5.0, 10.0, 15.0]


@pytest.mark.parametrize(("seconds", "drawn_after"), [(1000.0, [8]), (0.0, [4, 8])])
def test_a_run_draws_each_state_of_it_once(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, drawn_after: list[int]
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(plots, "AT_PAUSES", seconds)
    monkeypatch.setattr(plots, "draw_loss", lambda rows, *_: drawn.append(rows[-1]["step"]))
    train(make(corpus, tmp_path / "run"))
    assert drawn == drawn_after
