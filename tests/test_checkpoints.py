"""The checkpoints of a run: damage is found, the right ones stay, and what cannot be written is told at once."""

import gc
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax import checkpoint, checkpoints, digest, parameters, tokenizer
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config, OptimizerConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError, GPT2JaxWarning
from gpt2jax.record import DamagedError, Leaf, Meta, compare
from gpt2jax.train.guard import Guard
from gpt2jax.train.patience import out_of_patience
from gpt2jax.train.step import TrainState, abstract_state, init_state
from tests.helpers import TINY, place_on, run_two_processes

CONFIG = Config(model=TINY)


def meta(step: int, loss: float | None = None) -> Meta:
    return Meta(step, TINY, tokenizer.byte_level(), loss)


def values(state: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in digest.paths(state).items()}


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(left[path].tobytes() == right[path].tobytes() for path in left)


@pytest.fixture(scope="module")
def abstract() -> TrainState:
    return abstract_state(CONFIG, place_on(1, 1, 1))


@pytest.fixture(scope="module")
def states() -> dict[int, TrainState]:
    """Of steps 4 and 8, which differ in every parameter."""
    first = init_state(CONFIG, place_on(2, 2, 2))
    return {4: first, 8: jax.tree.map(lambda leaf: leaf + 1, first)}


@pytest.fixture(scope="module")
def saved(states: dict[int, TrainState], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as run:
        for step, state in states.items():
            run.save(state, meta(step, 1.0))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def fits(_: Meta) -> None:
    """Any checkpoint does."""


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def large_files(step: Path) -> list[Path]:
    """Those that hold the arrays: most of the bytes."""
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size > 20_000)


def test_what_is_saved_on_eight_devices_has_the_digests_of_one(saved: Path, states: dict[int, TrainState]) -> None:
    leaves = checkpoint.read_meta(saved / "8").leaves
    assert leaves is not None
    for path, array in values(states[8]).items():
        assert leaves[path] == Leaf(array.shape, str(array.dtype), digest.of_host(array)), path
    other = {path: digest.of_host(array) for path, array in values(states[4]).items()}
    with pytest.raises(DamagedError, match="params/wte"):
        compare(leaves, other, "here")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # Orbax's, of a read that failed.
def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(
    saved: Path, tmp_path: Path, abstract: TrainState, states: dict[int, TrainState]
) -> None:
    """In every file of a checkpoint, in the large ones at many places."""
    wanted, found = values(states[8]), 0
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(path for path in (saved / "8").rglob("*") if path.is_file())):
        size = path.stat().st_size
        for place in rng.integers(size, size=6 if size > 20_000 else 1) if size else []:
            copy = Path(shutil.copytree(saved / "8", tmp_path / f"{number}-{place}" / "8"))
            flip(copy / path.relative_to(saved / "8"), int(place))
            try:
                state = checkpoint.restore_state(copy, abstract)
            except GPT2JaxError:
                found += 1
            else:
                assert equal(values(state), wanted), (path, place)
            shutil.rmtree(copy)
    gc.collect()  # Here, and not in another test, is what Orbax leaves behind to be thrown away.
    assert found >= 8


def test_without_digests_a_flipped_byte_would_go_through(
    folder: Path, abstract: TrainState, states: dict[int, TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin of the above: it is the digests that find it."""
    place = next(
        (path, place)
        for path in large_files(folder / "8")
        for place in range(10_000, path.stat().st_size, 9_973)
        if names_a_leaf(folder, path, place, abstract)
    )
    flip(*place)
    monkeypatch.setattr(checkpoint, "compare", lambda *_: None)
    assert not equal(values(checkpoint.restore_state(folder / "8", abstract)), values(states[8]))


def names_a_leaf(folder: Path, path: Path, place: int, abstract: TrainState) -> bool:
    """Whether a byte flipped there gets through Orbax and is found by its leaf's digest; it is flipped back."""
    flip(path, place)
    try:
        checkpoint.restore_state(folder / "8", abstract)
    except DamagedError as error:
        return "not what was saved" in str(error)
    finally:
        flip(path, place)
    return False


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    folder: Path, abstract: TrainState, states: dict[int, TrainState]
) -> None:
    for name in ("8.damaged", "8.damaged-2"):
        path = max(large_files(folder / "8"), key=lambda path: path.stat().st_size)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with Checkpoints(folder) as run:
            with pytest.warns(GPT2JaxWarning) as caught:
                found = run.restore_newest(abstract, fits)
            assert found is not None
            assert found[0].step == 4
            assert equal(values(found[1]), values(states[4]))
            [line] = [str(warning.message) for warning in caught]
            assert f"{folder}/8: the checkpoint cannot be read" in line
            assert f"going on from step 4; it is now checkpoints/{name}" in line
            assert run.steps() == [4]
            run.save(states[8], meta(8, 2.0))  # The run comes there again.
        assert (folder / name).is_dir()
    with Checkpoints(folder) as run:
        again = run.restore_newest(abstract, fits)
    assert again is not None
    assert equal(values(again[1]), values(states[8]))


def test_when_all_are_damaged_all_stay_where_they_are(folder: Path, abstract: TrainState) -> None:
    for step in (4, 8):
        text = (folder / str(step) / "meta" / "metadata").read_text()
        (folder / str(step) / "meta" / "metadata").write_text(text.replace('"n_layer": 2', '"n_layer": 3'))
    with Checkpoints(folder) as run, pytest.raises(GPT2JaxError, match=r"no checkpoint to go on from: .*/8: .*/4: "):
        run.restore_newest(abstract, fits)
    assert {child.name for child in folder.iterdir()} == {"4", "8"}


def test_no_checkpoint_at_all_is_a_start(tmp_path: Path, abstract: TrainState) -> None:
    with Checkpoints(tmp_path / "new") as run:
        assert run.restore_newest(abstract, fits) is None


@pytest.mark.parametrize("key", ["leaves", "checksum"])
def test_a_record_that_lost_a_part_of_its_protection_is_damaged(key: str) -> None:
    value = Meta(1, TINY, tokenizer.byte_level(), 1.0, {"params/wte": Leaf((2, 3), "float32", 7)}).to_json()
    assert Meta.from_json(json.loads(json.dumps(value)), "here").leaves == {"params/wte": Leaf((2, 3), "float32", 7)}
    with pytest.raises(DamagedError, match="meta: it is not what was saved"):
        Meta.from_json({name: part for name, part in value.items() if name != key}, "here")


def test_a_checkpoint_from_before_there_were_digests_is_read(
    folder: Path, abstract: TrainState, states: dict[int, TrainState]
) -> None:
    without_digests(folder / "8")
    with Checkpoints(folder) as run:
        found = run.restore_newest(abstract, fits)
    assert found is not None
    assert found[0].leaves is None
    assert equal(values(found[1]), values(states[8]))
    assert np.array_equal(checkpoint.restore_array(folder / "8", "wte"), np.asarray(states[8].params["wte"]))


def without_digests(step: Path) -> None:
    path = step / "meta" / "metadata"
    path.write_text(json.dumps({key: part for key, part in json.loads(path.read_text()).items() if key not in NEW}))


NEW = ("leaves", "checksum")


def test_parameters_alone_are_compared_however_they_are_read(
    folder: Path, abstract: TrainState, states: dict[int, TrainState]
) -> None:
    whole = abstract.params
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16", sharding=leaf.sharding), whole)
    rounded = checkpoint.restore_params(folder / "8", half)
    assert rounded["wte"].dtype == "bfloat16"
    assert np.array_equal(np.asarray(rounded["wte"]), np.asarray(states[8].params["wte"].astype("bfloat16")))
    # Now the record tells of another array: what is read is not what was saved.
    path = folder / "8" / "meta" / "metadata"
    record = Meta.from_json(json.loads(path.read_text()), "here")
    assert record.leaves is not None
    wrong = record.leaves | {"params/wte": record.leaves["params/wte"].__class__((0,), "float32", 1)}
    path.write_text(json.dumps(Meta(8, TINY, record.encoding, 1.0, wrong).to_json()))
    for read in (
        lambda: checkpoint.restore_params(folder / "8", whole),
        lambda: checkpoint.restore_params(folder / "8", half),
        lambda: checkpoint.restore_array(folder / "8", "wte"),
    ):
        with pytest.raises(DamagedError, match=r"/8: the checkpoint is damaged \(params/wte: not what was saved\)"):
            read()
    assert checkpoint.restore_array(folder / "8", "wpe").shape == (32, 64)


def test_a_state_of_other_settings_is_refused_and_not_taken_for_damage(folder: Path) -> None:
    other = Config(model=TINY, optimizer=OptimizerConfig(clip_norm=0.0))
    with Checkpoints(folder) as run, pytest.raises(GPT2JaxError, match="other settings of the optimizer") as caught:
        run.restore_newest(abstract_state(other, place_on(1, 1, 1)), fits)
    assert not isinstance(caught.value, DamagedError)
    assert {child.name for child in folder.iterdir()} == {"4", "8"}


def small(step: int) -> dict[str, jax.Array]:
    return {"params": jax.numpy.full((4, 8), float(step))}


LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: 1.5, 7: 2.6, 8: 2.7}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ({"keep_last": 2}, [2, 7, 8]),
        ({"keep_last": 1, "keep_best": 0}, [8]),
        ({"keep_last": 1, "keep_best": 2}, [2, 6, 8]),
        ({"keep_last": 1, "keep_best": 1, "keep_every": 3}, [2, 3, 6, 8]),
    ],
)
@pytest.mark.parametrize("starts", [1, 4])
def test_the_right_ones_stay_also_when_a_run_is_started_again(
    tmp_path: Path, keep: dict[str, Any], left: list[int], starts: int
) -> None:
    for part in parts(starts):
        with Checkpoints(tmp_path, **keep) as run:
            for step, loss in part:
                run.save(small(step), meta(step, loss))
    assert sorted(int(child.name) for child in tmp_path.iterdir()) == left


def test_of_equal_losses_the_earlier_is_the_best_as_patience_has_it(tmp_path: Path) -> None:
    losses = {2: 3.0, 4: 1.0, 6: 1.0, 8: 2.0}
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as run:
        for step, loss in losses.items():
            run.save(small(step), meta(step, loss))
        assert run.best_step() == 4
    assert sorted(int(child.name) for child in tmp_path.iterdir()) == [4, 8]
    rows = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    line = out_of_patience(rows, TrainingConfig(patience=2, eval_interval=2, steps=100))
    assert "the best is 1.0000 nats per token, at step 4" in line


def test_a_step_does_not_wait_for_the_removal_of_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for after a step, while the clock of the steps runs."""
    begun, go_on, remove = threading.Event(), threading.Event(), checkpoints.remove_folder

    def slowly(folder: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        remove(folder)

    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as run:
        monkeypatch.setattr(checkpoints, "remove_folder", slowly)
        run.save(small(2), meta(2, None))
        go_on.set()
        run.save(small(4), meta(4, None))
        begun.clear()
        go_on.clear()
        while not begun.is_set():  # Until the write has ended, which check() then finds.
            run.check()
        run.check()  # It comes back.
        assert (tmp_path / "deleted").exists()
        go_on.set()
        run.wait()
        assert {child.name for child in tmp_path.iterdir()} == {"4"}


def parts(starts: int) -> Iterator[list[tuple[int, float | None]]]:
    items = list(LOSSES.items())
    for start in range(0, 8, 8 // starts):
        yield items[start : start + 8 // starts]


def test_what_a_killed_run_left_half_done_is_removed(folder: Path) -> None:
    shutil.copytree(folder / "4", folder / "deleted" / "2")
    (folder / "12.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(folder, read_only=True) as run:
        assert run.steps() == [4, 8]
    assert (folder / "deleted").exists()  # Who only reads removes nothing.
    with Checkpoints(folder):
        pass
    assert {child.name for child in folder.iterdir()} == {"4", "8"}


def test_a_failure_in_the_background_comes_at_the_next_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it is known nothing waits for it; afterwards the checkpoint before is whole and there is no half one."""
    go_on = threading.Event()

    def full(*_: Any, **__: Any) -> None:
        go_on.wait(20)
        raise OSError(28, "No space left on device")

    def train() -> None:
        with Checkpoints(tmp_path) as run:
            run.save(small(1), meta(1))
            run.wait()
            break_writes(monkeypatch, full)
            run.save(small(2), meta(2))
            for _ in range(3):
                run.check()
            go_on.set()
            for _ in range(200):
                run.check()
                threading.Event().wait(0.05)
            raise AssertionError("the failure was never told")

    with pytest.raises(GPT2JaxError) as caught:
        train()
    line = str(caught.value)
    assert "the checkpoint of step 2 cannot be written" in line
    assert "No space left on device" in line
    assert line.endswith("the last whole one is of step 1")
    assert "\n" not in line
    assert {child.name for child in tmp_path.iterdir()} == {"1"}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def break_writes(monkeypatch: pytest.MonkeyPatch, instead: Any) -> None:
    """From now on parts of a checkpoint end as ``instead`` does, in the background."""
    result = checkpoints._Noting.result

    def failing(self: Any, timeout: int | None = None) -> Any:
        try:
            instead()
        except OSError as error:
            self._errors.append(error)
            result(self, timeout)
            raise

    monkeypatch.setattr(checkpoints._Noting, "result", failing)


def test_the_last_failure_comes_when_the_folder_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    def train() -> None:
        with Checkpoints(tmp_path) as run:
            break_writes(monkeypatch, full)
            run.save(small(1), meta(1))

    with pytest.raises(GPT2JaxError, match=r"step 1 cannot be written .*No space.*; there is none yet$"):
        train()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_not_held_until_the_next_save(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as run:
        run.save(small(1), meta(1))
        assert len(run._parts) == 2  # State and meta, in flight.
        run.wait()
        assert run._parts == []


class Slow:
    """A part of a write that makes its files a while after another has failed."""

    def __init__(self, part: Any, folder: Path) -> None:
        self.part = part
        self.thread = threading.Thread(target=self.write, args=(folder,))
        self.thread.start()

    def write(self, folder: Path) -> None:
        threading.Event().wait(1)
        (folder / "1.orbax-checkpoint-tmp" / "meta").mkdir(parents=True, exist_ok=True)

    def result(self, timeout: int | None = None) -> Any:
        self.thread.join()
        return self.part.result(timeout)


@pytest.mark.parametrize("waited_for", [True, False])
def test_parts_that_outlive_the_one_that_failed_leave_no_files(
    waited_for: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is and, the twin, where only Orbax waits."""
    begin, slow = checkpoints._Noting.__init__, []

    def begin_slowly(self: Any, part: Any, errors: list[Exception]) -> None:
        slow.append(Slow(part, tmp_path))
        begin(self, slow[-1], errors)

    def fail(self: Any, timeout: int | None = None) -> Any:
        self._errors.append(OSError(28, "No space left on device"))
        raise self._errors[-1]

    monkeypatch.setattr(checkpoints._Noting, "__init__", begin_slowly)
    monkeypatch.setattr(checkpoints._Noting, "result", fail)
    if not waited_for:
        monkeypatch.setattr(checkpoints._Noting, "wait", lambda self: None)
    with pytest.raises(GPT2JaxError, match="step 1 cannot be written"), Checkpoints(tmp_path) as run:
        run.save(small(1), meta(1))
    for part in slow:
        part.thread.join()
    assert bool(list(tmp_path.iterdir())) != waited_for


def test_small_arrays_are_written_whole_and_no_program_cuts_them(
    tmp_path: Path, abstract: TrainState, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    """Twin: where parts may have any size, each of eight devices cuts its own from what all of them hold."""
    state = init_state(CONFIG, place_on(8, 1, 1))
    for name, part, cut in (("whole", checkpoints._PART_BYTES, False), ("cut", 1, True)):
        monkeypatch.setattr(checkpoints, "_PART_BYTES", part)
        compiled.clear()
        with Checkpoints(tmp_path / name) as run:
            run.save(state, meta(1))
        assert ("jit(slice)" in compiled) == cut
        assert equal(values(checkpoint.restore_state(tmp_path / name / "1", abstract)), values(state))


BOTH_WRITE = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
folder, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
import numpy as np
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import ModelConfig
from gpt2jax.record import Meta
from jax.sharding import NamedSharding, PartitionSpec
held = NamedSharding(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), PartitionSpec())
random = np.random.default_rng(0)
values = {"large": random.normal(size=(1024, 1024)).astype("f4"), "small": random.normal(size=(128, 128)).astype("f4")}
put = lambda value: jax.make_array_from_callback(value.shape, held, lambda index: value[index])
with Checkpoints(folder) as run:
    run.save(jax.tree.map(put, values), Meta(1, ModelConfig(), None, None))
    abstract = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=held), values)
    run.wait()
    state = run.restore(1, abstract)
assert all(np.array_equal(state[name].addressable_data(0), value) for name, value in values.items())
"""


def test_each_of_two_processes_writes_its_part_of_a_large_array(tmp_path: Path) -> None:
    run_two_processes(BOTH_WRITE, tmp_path)
    written = [
        sum(file.stat().st_size for file in (tmp_path / "1" / "state" / f"ocdbt.process_{process}" / "d").iterdir())
        for process in range(2)
    ]
    # 2 MiB of the large one each, which random bits are left of when they are compressed; the small one the first.
    assert written[1] > 1.7e6
    assert 5e4 < written[0] - written[1] < 8e4


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GPT2JaxError, match=r"file: cannot be made \(File exists\)"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(GPT2JaxError, match=r"file/checkpoints: cannot be made \(Not a directory\)"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    monkeypatch.setattr(checkpoints.os, "access", lambda path, mode: False)
    with pytest.raises(GPT2JaxError, match=f"{tmp_path}: checkpoints cannot be written there"):
        Checkpoints(tmp_path)


def test_all_parameters_of_the_table_have_a_digest(saved: Path) -> None:
    leaves = checkpoint.read_meta(saved / "8").leaves
    assert leaves is not None
    assert {f"params/{row.path}" for row in parameters.TABLE} <= leaves.keys()
    # Beside them the optimizer's moments, and step, counters, and what the guard remembers.
    assert {path.split("/")[0] for path in leaves} == {"step", "params", "opt_state", "guard"}
    assert len(leaves) == 3 * len(parameters.TABLE) + 3 + len(jax.tree.leaves(Guard.fresh()))
