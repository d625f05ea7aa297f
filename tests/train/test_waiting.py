"""The host runs ahead of the devices: it waits at intervals alone, and has the next batch there before a step ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from gpt2jax.checkpoints import Checkpoints
from gpt2jax.train import loop
from gpt2jax.train.loop import train
from gpt2jax.train.runlog import RunLog
from tests.train.test_loop import make

STEPS = 12
INTERVALS: dict[str, Any] = {"steps": STEPS, "log_interval": 4, "eval_interval": 6, "checkpoint_interval": 6}


class Watched:
    """A number of a step's, on a device, that tells when it is waited for."""

    def __init__(self, events: list[str], name: str, value: jax.Array) -> None:
        self.events, self.name, self.value = events, name, value

    def __float__(self) -> float:
        self.events.append(f"read {self.name}")
        return float(self.value)

    def block_until_ready(self) -> "Watched":
        self.events.append(f"wait for {self.name}")
        self.value.block_until_ready()
        return self


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a run does, in its order: steps and batches, by number; logs; and all that waits for the devices."""
    events: list[str] = []
    make_step, batches, write, save = loop.make_train_step, loop.device_batches, RunLog.write, Checkpoints.save

    class Step:
        def __init__(self, *args: Any) -> None:
            self.step, self.count = make_step(*args), 0

        def lower(self, *args: Any) -> "Step":
            self.compiled = self.step.lower(*args).compile()
            return self

        def compile(self) -> "Step":
            return self

        def __call__(self, *args: Any) -> tuple[Any, Any]:
            self.count += 1
            state, metrics = self.compiled(*args)
            events.append(f"step {self.count}")
            return state, {name: Watched(events, name, value) for name, value in metrics.items()}

    def watched_batches(*args: Any) -> Iterator[jax.Array]:
        for number, windows_ABT1 in enumerate(batches(*args), 1):
            events.append(f"batch {number}")
            yield windows_ABT1

    def waiting(of: Any) -> Any:
        def wait(*args: Any) -> Any:
            events.append("wait")
            return of(*args)

        return wait

    def watched_write(self: RunLog, row: dict[str, float], text: str) -> None:
        events.append("log" if "loss" in row else "validation")
        write(self, row, text)

    def watched_save(self: Checkpoints, *args: Any) -> None:
        events.append("save")
        save(self, *args)

    monkeypatch.setattr(loop, "make_train_step", Step)
    monkeypatch.setattr(loop, "device_batches", watched_batches)
    for name in ("block_until_ready", "device_get"):
        monkeypatch.setattr(jax, name, waiting(getattr(jax, name)))
    monkeypatch.setattr(RunLog, "write", watched_write)
    monkeypatch.setattr(Checkpoints, "save", watched_save)
    return events


def by_step(events: list[str]) -> dict[int, list[str]]:
    """The events after the start of each step and before that of the next."""
    found: dict[int, list[str]] = {0: []}
    for event in events:
        if event.startswith("step "):
            found[int(event.removeprefix("step "))] = []
        else:
            found[max(found)].append(event)
    return found


def test_it_waits_at_intervals_alone_and_fetches_the_next_batch_first(
    corpus: str, tmp_path: Path, events: list[str]
) -> None:
    train(make(corpus, tmp_path / "run", **INTERVALS))
    after = by_step(events)
    assert after.keys() == set(range(STEPS + 1))
    assert after[0][0] == "batch 1"
    for step in range(1, STEPS):
        # Before whatever it waits for then, the device has the next step's batch.
        assert after[step][0] == f"batch {step + 1}"
    assert not any(event.startswith("batch") for event in after[STEPS])  # None is read that is not used.
    quiet = set(range(2, STEPS)) - {4, 6, 8}  # The first step waits for its compilation.
    for step in quiet:
        assert after[step] == [f"batch {step + 1}"], step
    for step, what in ((4, "log"), (6, "validation"), (6, "save"), (8, "log"), (12, "save")):
        assert what in after[step]
    # At a save alone it is asked whether the step was skipped, beside the rows of the log.
    asked = [step for step, found in after.items() for event in found if event == "read skipped"]
    assert asked == [4, 6, 8, 12]


def test_a_look_at_every_step_is_seen(corpus: str, tmp_path: Path, events: list[str]) -> None:
    """The twin: --debug-nans reads loss and gradient norm at every step, as it says."""
    train(make(corpus, tmp_path / "run", **INTERVALS), debug_nans=True)
    after = by_step(events)
    for step in range(2, STEPS):
        assert after[step][:3] == [f"batch {step + 1}", "read loss", "read grad_norm"]
