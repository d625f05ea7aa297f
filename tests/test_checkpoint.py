"""Checkpoints: what goes in comes out, on any mesh, and what must not be saved is not."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from gpt2jax import parameters, tokenizer
from gpt2jax.checkpoint import concurrent_gb, find, read_meta, restore_params
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config, from_mapping
from gpt2jax.errors import GPT2JaxError
from gpt2jax.record import Meta
from gpt2jax.train.step import TrainState, abstract_state, init_state
from tests.helpers import TINY, place_on

CONFIG = Config(model=TINY)


def meta(step: int, loss: float | None = None) -> Meta:
    return Meta(step, TINY, tokenizer.byte_level(), loss)


def equal(left: TrainState, right: TrainState) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return init_state(CONFIG, place_on(2, 2, 2))


@pytest.fixture(scope="module")
def folder(state: TrainState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 to 5, of which 2 is the best and 4 has no validation loss; two are kept and the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep_last=2) as checkpoints:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)):
            checkpoints.save(state, meta(step, loss))
    return folder


def test_a_state_saved_on_eight_devices_is_restored_on_other_meshes(folder: Path, state: TrainState) -> None:
    for sizes in ((1, 1, 1), (1, 8, 1)):
        with Checkpoints(folder, read_only=True) as checkpoints:
            restored = checkpoints.restore(5, abstract_state(CONFIG, place_on(*sizes)))
        assert equal(restored, state)
        assert restored.params["wte"].sharding.mesh.size == sizes[0] * sizes[1] * sizes[2]
    assert not equal(jax.tree.map(lambda leaf: leaf + 1, restored), state)


def test_the_newest_and_the_best_are_kept(folder: Path) -> None:
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]


def test_a_checkpoint_says_what_it_is(folder: Path) -> None:
    found = read_meta(folder / "2")
    assert (found.step, found.model, found.validation_loss) == (2, TINY, 1.0)
    assert found.encoding is not None
    assert found.encoding.name == "bytes"
    assert read_meta(folder.parent).step == 5


@pytest.mark.parametrize(("name", "gigabytes"), [("gpt2", 1), ("gpt2-large", 1), ("gpt2-xl", 2)])
def test_the_largest_parameter_of_a_model_can_be_written(name: str, gigabytes: int) -> None:
    """gpt2-xl has one of 1.97 GB; Orbax refuses what is larger than its limit."""
    params = parameters.abstract(from_mapping({"model": name}, "here").model)
    assert concurrent_gb(params) == gigabytes


def test_parameters_are_restored_alone(folder: Path, state: TrainState) -> None:
    params = restore_params(folder.parent, abstract_state(CONFIG, place_on(1, 1, 1)).params)
    assert str(jax.tree.structure(params)) == str(jax.tree.structure(state.params))
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True)
    )


def test_an_old_step_is_refused_rather_than_skipped_in_silence(state: TrainState, tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, meta(3))
        for step in (2, 3):
            with pytest.raises(GPT2JaxError, match=f"step {step}: .* already holds step 3"):
                checkpoints.save(state, meta(step))


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match="holds no checkpoint"):
        find(tmp_path)
    with pytest.raises(GPT2JaxError, match="no such folder"):
        find(tmp_path / "nowhere")


def test_another_format_version_is_refused() -> None:
    value = meta(1).to_json()
    assert Meta.from_json(value, "here").step == 1
    with pytest.raises(GPT2JaxError, match="format_version 2: should be 1"):
        Meta.from_json(value | {"format_version": 2}, "here")


def test_a_damaged_checkpoint_is_one_line(folder: Path, state: TrainState) -> None:
    for damage in ("truncated meta", "no meta", "truncated state"):
        copy = Path(shutil.copytree(folder, folder.parent.with_name(f"copy {damage}"))) / "5"
        if damage == "no meta":
            shutil.rmtree(copy / "meta")
        else:
            part = "meta" if damage == "truncated meta" else "state"
            for path in (path for path in (copy / part).rglob("*") if path.is_file() and path.stat().st_size):
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        abstract = abstract_state(CONFIG, place_on(1, 1, 1)).params
        with pytest.raises(GPT2JaxError, match="5: the checkpoint cannot be read") as caught:
            _ = read_meta(copy) if part_of(damage) == "meta" else restore_params(copy, abstract)
        assert "\n" not in str(caught.value)


def part_of(damage: str) -> str:
    return "state" if damage == "truncated state" else "meta"
