"""A run that was ended goes on bitwise as if it never had been, in every mode: all of the state, and every number that
it logs. Every run here goes through its data several times, and is ended in the midst of an epoch."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.data.pipeline import open_split
from gpt2jax.data.prepare import prepare
from gpt2jax.train import guard, loop
from gpt2jax.train.loop import train
from gpt2jax.train.runlog import read_rows
from gpt2jax.train.step import init_state, make_place
from tests.helpers import by_path
from tests.train.test_faults import spoil

__all__ = ["spoil"]  # A fixture.

STEPS, STOP = 11, 5
SPIKE = 9
MODEL: dict[str, Any] = {"n_vocab": 257, "n_ctx": 16, "n_embd": 32, "n_head": 8, "n_layer": 2}
# Mesh; settings of model, optimizer and training.
Mode = tuple[tuple[int, int, int], dict[str, Any], dict[str, Any], dict[str, Any]]
MODES: dict[str, Mode] = {
    "adamw": ((2, 2, 2), {"dropout": 0.1}, {}, {"micro_batches": 2}),
    "muon, frozen": ((1, 8, 1), {}, {"name": "muon"}, {"freeze": ("wpe", "h/*/bias"), "freeze_layers": 1}),
    "lion, bfloat16": (
        (1, 1, 8),
        {"compute_dtype": "bfloat16", "remat": "full"},
        {"name": "lion", "schedule": "wsd"},
        {"sequence_sharding": True},
    ),
    "ramp": ((8, 1, 1), {}, {}, {"batch_size": 32, "micro_batches": 2, "ramp": (7,)}),
    "spike": ((4, 2, 1), {"dropout": 0.1}, {}, {"spike_z": 8.0}),
}
CLOCK = ("train_seconds", "step_seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("".join(f"{number} times {number} is {number**2}.\n" for number in range(50)))
    prepare([str(folder / "text.txt")], folder / "shards", tokenizer="bytes", split="tail")
    return str(folder / "shards")


def make(corpus: str, mode: str, **changes: Any) -> Config:
    sizes, model, optimizer, training = MODES[mode]
    rates: dict[str, Any] = {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 2}
    intervals = {"log_interval": 1, "eval_interval": 100, "eval_batches": 1, "checkpoint_interval": 5, "keep_last": 3}
    return Config(
        model=ModelConfig(**MODEL | model),
        mesh=MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), max_whole=1.0),
        data=DataConfig(path=corpus),
        optimizer=OptimizerConfig(**rates | optimizer),
        training=TrainingConfig(**{"steps": STEPS, "batch_size": 16} | intervals | training | changes),
    )


@dataclasses.dataclass
class Seen:
    """What a run did."""

    restored: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    saved: dict[int, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    """Every leaf of the state, by step and path."""
    batches: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    """Windows, by the step that they are of."""
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """The log, without what the clock said."""


Lose = Callable[[Config, Any], Any]


def see(config: Config, monkeypatch: pytest.MonkeyPatch, lose: Lose = lambda _, state: state) -> Seen:
    """Train; ``lose`` makes of the state that was restored another one."""
    seen = Seen()
    save, restore, batches = Checkpoints.save, Checkpoints.restore_newest, loop.device_batches

    def note_saved(self: Checkpoints, state: Any, meta: Any) -> None:
        seen.saved[meta.step] = by_path(jax.device_get(state))
        save(self, state, meta)

    def note_restored(self: Checkpoints, *args: Any) -> Any:
        if found := restore(self, *args):
            seen.restored = by_path(jax.device_get(found[1]))
            return found[0], lose(config, found[1])
        return None

    def note_batches(config: Config, place: Any, windows: Any, start: int, micro_batch: int) -> Iterator[jax.Array]:
        for step, windows_ABT1 in enumerate(batches(config, place, windows, start, micro_batch), start + 1):
            seen.batches[step] = np.asarray(windows_ABT1)
            yield windows_ABT1

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", note_saved)
        patch.setattr(Checkpoints, "restore_newest", note_restored)
        patch.setattr(loop, "device_batches", note_batches)
        patch.setattr(loop.Picture, "draw", lambda *_: "")  # Slow, and no part of this.
        train(config)
    rows = read_rows(config.training.run_dir)
    seen.rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
    return seen


def at_stop(run_dir: Path, copy: Path) -> str:
    """A copy of a run's folder as it was when its first checkpoint was whole; what was logged since is there too."""
    shutil.copytree(run_dir, copy)
    for step in (2 * STOP, STEPS):
        shutil.rmtree(copy / "checkpoints" / str(step))
    return str(copy)


def differences(whole: Seen, resumed: Seen) -> set[str]:
    """Where the runs are not bitwise the same, after the later steps that both saved."""
    assert resumed.saved.keys() == {2 * STOP, STEPS} < whole.saved.keys()
    found = {"rows"} if whole.rows != resumed.rows else set()
    for step, leaves in resumed.saved.items():
        assert leaves.keys() == whole.saved[step].keys()
        for path, leaf in leaves.items():
            other = whole.saved[step][path]
            if (leaf.dtype, leaf.shape, leaf.tobytes()) != (other.dtype, other.shape, other.tobytes()):
                found.add(path)
    return found


Whole = Callable[[str], tuple[Seen, Path]]


@pytest.fixture(scope="module")
def wholes() -> dict[str, tuple[Seen, Path]]:
    return {}


@pytest.fixture
def whole(
    corpus: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[..., None],
    wholes: dict[str, tuple[Seen, Path]],
) -> Whole:
    """A run of a mode that was never ended, and its folder; made once."""

    def run(mode: str) -> tuple[Seen, Path]:
        if mode == "spike":
            monkeypatch.setattr(guard, "LEAST_SEEN", 4)
            spoil((SPIKE,), factor=20.0)
        if mode not in wholes:
            folder = tmp_path_factory.mktemp("whole") / "run"
            wholes[mode] = see(make(corpus, mode, run_dir=str(folder)), monkeypatch), folder
        return wholes[mode]

    return run


@pytest.mark.parametrize("mode", MODES)
def test_it_goes_on_bitwise(
    mode: str, corpus: str, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, folder = whole(mode)
    resumed = see(make(corpus, mode, run_dir=at_stop(folder, tmp_path / "copy")), monkeypatch)
    assert resumed.batches.keys() == set(range(STOP + 1, STEPS + 1))
    assert differences(never, resumed) == set()
    assert [row["step"] for row in never.rows if "loss" in row] == list(range(1, STEPS + 1))
    # Parameters, both moments, guard and step are in it.
    kinds = {path.split("/")[0] for path in never.saved[STEPS]}
    assert kinds == {"step", "params", "opt_state", "guard"}
    if mode == "spike":
        assert [row["step"] for row in resumed.rows if row.get("skipped")] == [SPIKE]


def test_epochs_end_before_and_after_the_run_was_ended_and_within_batches(corpus: str) -> None:
    for mode in MODES:
        config = make(corpus, mode)
        training = config.training
        count = len(open_split(corpus, "train", MODEL["n_ctx"], MODEL["n_vocab"], config.data.tokenizer)[0])
        micro_batch = training.batch_size // training.micro_batches
        begins = [training.micro_batches_before(step) * micro_batch / count for step in range(STEPS + 1)]
        assert 1 < begins[STOP] < begins[STOP] + 1 < begins[STEPS], mode
        assert not any(begin.is_integer() for begin in begins[1:]), mode


def without_optimizer(config: Config, state: Any) -> Any:
    return dataclasses.replace(state, opt_state=init_state(config, make_place(config)).opt_state)


def without_guard(config: Config, state: Any) -> Any:
    return dataclasses.replace(state, guard=init_state(config, make_place(config)).guard)


@pytest.mark.parametrize(
    ("mode", "change", "lose"),
    [
        ("adamw", {"seed": 1}, None),
        ("adamw", {}, without_optimizer),
        ("spike", {}, without_guard),
    ],
)
def test_what_was_lost_is_seen(
    mode: str,
    change: dict[str, Any],
    lose: Lose | None,
    corpus: str,
    tmp_path: Path,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The twins: with another seed, a fresh optimizer or a guard that remembers nothing, it is another run."""
    never, folder = whole(mode)
    config = make(corpus, mode, run_dir=at_stop(folder, tmp_path / "copy"), **change)
    found = differences(never, see(config, monkeypatch, lose) if lose else see(config, monkeypatch))
    assert {"rows", "params/wte", "params/h/attn/c_attn/kernel", "guard/mean/loss"} <= found
    assert any(path.startswith("opt_state/") for path in found)
    assert "step" not in found


def test_on_another_mesh_it_goes_on_from_the_same_bits_with_the_same_data(
    corpus: str, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, folder = whole("adamw")
    config = make(corpus, "adamw", run_dir=at_stop(folder, tmp_path / "copy"))
    moved = see(dataclasses.replace(config, mesh=MeshConfig(data=8)), monkeypatch)
    assert all(np.array_equal(leaf, never.saved[STOP][path]) for path, leaf in moved.restored.items())
    assert moved.restored.keys() == never.saved[STOP].keys()
    assert all(np.array_equal(batch, never.batches[step]) for step, batch in moved.batches.items())
    assert moved.batches.keys() == set(range(STOP + 1, STEPS + 1))

    def losses(seen: Seen) -> np.ndarray:
        return np.array([row["loss"] for row in seen.rows if "loss" in row])

    apart = np.abs(losses(moved) - losses(never)) / losses(never)
    assert 0 < apart.max() < 5e-7  # Measured: 1.3e-7.
    # Twin: two steps of one run are not as near.
    assert np.abs(np.diff(losses(never))).min() > 1e-3
