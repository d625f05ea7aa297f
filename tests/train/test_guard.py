"""Steps that are skipped, with faults put into the objective: nothing changes in them but the counters."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.train import guard
from gpt2jax.train import step as step_module
from gpt2jax.train.guard import Guard
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.step import TrainState, init_state, make_train_step
from tests.helpers import by_path, place_on, random_tokens

SMALL = ModelConfig(n_vocab=100, n_ctx=16, n_embd=16, n_head=2, n_layer=2)
SPOILED = 99  # A window that begins with this token is one with a fault.


def make(**training: Any) -> Config:
    return Config(
        model=SMALL,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0, decay_steps=100),
        training=TrainingConfig(loss_chunk=8, **training),
    )


def window(seed: int, spoiled: bool = False) -> jax.Array:
    return random_tokens(seed, 1, 8, 17, n_vocab=99).at[0, 0, 0].set(SPOILED if spoiled else 0)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes spoiled windows have a loss or gradient that is not finite, or a large loss."""

    def set_up(how: str) -> None:
        def spoiled(params: Any, window_BT1: jax.Array, *args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
            total, count = loss_sum(params, window_BT1, *args, **kwargs)
            bad = window_BT1[0, 0] == SPOILED
            if how == "gradient":  # The root of 0: its value is finite, its slope is not.
                return total + jnp.sqrt(jnp.where(bad, 0.0 * params["ln_f"]["scale"].sum(), 1.0)), count
            factor = {"nan": jnp.nan, "infinite": jnp.inf, "spike": 30.0}[how]
            return total * jnp.where(bad, factor, 1.0), count

        monkeypatch.setattr(step_module, "loss_sum", spoiled)

    return set_up


def same(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def kept(state: TrainState) -> Any:
    """Copies of parameters and optimizer state: the step consumes its own."""
    return jax.device_get((state.params, state.opt_state))


@pytest.mark.parametrize("how", ["nan", "infinite", "gradient"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(
    sizes: tuple[int, int, int], how: str, spoil: Callable[[str], None]
) -> None:
    spoil(how)
    config, place = make(), place_on(*sizes)
    state, step = init_state(config, place), make_train_step(config, place)
    state, metrics = step(state, window(0))
    assert float(metrics["skipped"]) == 0
    before = kept(state)
    for number in (1, 2):
        state, metrics = step(state, window(number, spoiled=True))
        assert np.isfinite(float(metrics["loss"])) == (how == "gradient")
        assert not np.isfinite(float(metrics["grad_norm"]))
        assert [float(metrics[name]) for name in ("skipped", "skipped_in_a_row", "skipped_in_all")] == [
            1,
            number,
            number,
        ]
        assert same(kept(state), before)
        assert int(state.step) == number + 1
    # Twin: a sound step moves both, is not counted, and the row of skipped ones ends.
    state, metrics = step(state, window(3))
    assert [float(metrics[name]) for name in ("skipped", "skipped_in_a_row", "skipped_in_all")] == [0, 0, 2]
    assert not any(same(a, b) for a, b in zip(kept(state), before, strict=True))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept(state)))


def test_the_learning_rate_stays_a_function_of_the_step(spoil: Callable[[str], None]) -> None:
    """After a skipped step the update is that of the rate at its own step, not of the one that was missed."""
    spoil("nan")
    config, place = make(), place_on(1, 1, 1)
    slower = dataclasses.replace(config.optimizer, schedule="constant")
    states = {}
    for name, settings, spoiled in (
        ("falling", config, True),
        ("falling, none skipped", config, False),
        ("constant", dataclasses.replace(config, optimizer=slower), True),
    ):
        step = make_train_step(settings, place)
        state = init_state(settings, place)
        for number in range(40):
            skipped = spoiled and number < 39
            state, metrics = step(state, window(number, spoiled=skipped) if skipped or number == 39 else window(number))
        states[name] = (jax.device_get(state.params), float(metrics["learning_rate"]))
    start = jax.device_get(init_state(config, place).params)
    moved = {name: jax.tree.map(np.subtract, params, start)["ln_f"]["scale"] for name, (params, _) in states.items()}
    assert states["falling"][1] == states["falling, none skipped"][1] < 0.8e-2
    # Adam's first update has the size of the rate.
    assert np.abs(moved["falling"]).max() == pytest.approx(states["falling"][1], rel=1e-3)
    assert np.abs(moved["constant"]).max() == pytest.approx(1e-2, rel=1e-3)


def test_a_spike_is_skipped_where_it_is_asked_for(spoil: Callable[[str], None]) -> None:
    spoil("spike")
    place = place_on(1, 1, 1)
    found = {}
    for name, training in (
        ("off", {}),
        ("loss", {"spike_z": 4.0}),
        ("grad_norm", {"spike_z": 4.0, "spike_on": "grad_norm"}),
        ("far", {"spike_z": 1e6}),
    ):
        config = make(**training)
        state, step = init_state(config, place), make_train_step(config, place)
        skipped = []
        for number in range(70):
            if number == 60:
                before = kept(state)
            state, metrics = step(state, window(number, spoiled=number in (20, 60)))
            skipped.append(float(metrics["skipped"]))
            assert ("spike_z" in metrics) == bool(training)
            if number == 60:
                found[name] = (same(kept(state), before), metrics)
        # The one of step 20 comes before there is a mean to trust.
        assert [number for number, value in enumerate(skipped) if value] == (
            [60] if name in ("loss", "grad_norm") else []
        )
    assert [unchanged for unchanged, _ in found.values()] == [False, True, True, False]
    assert float(found["loss"][1]["spike_z"]) > 4


def test_mean_and_variance_are_those_of_the_steps_that_were_not_skipped() -> None:
    values = np.random.default_rng(0).normal(5.0, 0.3, 40).astype(np.float32)
    watch, training = Guard.fresh(), TrainingConfig(spike_z=5.0)
    seen = []
    for number, value in enumerate(values):
        bad = number % 10 == 9
        watched = {"loss": jnp.float32(jnp.nan if bad else value), "grad_norm": jnp.float32(1.0)}
        skip, z = guard.judge(watch, watched, training)
        assert (bool(skip), float(z)) == (bad, 0.0)
        watch = guard.note(watch, skip, watched)
        seen += [] if bad else [float(value)]
    # Of fewer than 50 steps, the plain ones.
    assert float(watch.mean["loss"]) == pytest.approx(statistics.fmean(seen), rel=1e-5)
    assert float(watch.variance["loss"]) == pytest.approx(statistics.pvariance(seen), rel=1e-4)
    assert float(watch.variance["grad_norm"]) == 0
    assert int(watch.seen) == len(seen) == 36
    # From then on old steps are forgotten: a lasting change of level becomes the mean.
    for _ in range(400):
        watched = {"loss": jnp.float32(9.0), "grad_norm": jnp.float32(1.0)}
        watch = guard.note(watch, jnp.zeros((), bool), watched)
    assert float(watch.mean["loss"]) == pytest.approx(9.0, abs=0.01)
    assert abs(9.0 - statistics.fmean([*seen, *[9.0] * 400])) > 0.1


def test_norms_of_each_kind_of_parameter_are_there_on_request(spoil: Callable[[str], None]) -> None:
    spoil("nan")
    place = place_on(2, 2, 2)
    config = make(log_norms=True, freeze=("wpe",), freeze_layers=1)
    state, step = init_state(config, place), make_train_step(config, place)
    before = kept(state)[0]
    state, metrics = step(state, window(0))
    moved = by_path(jax.tree.map(np.subtract, kept(state)[0], before))
    assert {name for name in metrics if name.startswith("update_norm/")} == {f"update_norm/{path}" for path in moved}
    squares = sum(float(value) ** 2 for name, value in metrics.items() if name.startswith("grad_norm/"))
    assert float(metrics["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-5)
    for path, change in moved.items():
        assert float(metrics[f"update_norm/{path}"]) == pytest.approx(float(np.linalg.norm(change)), rel=1e-2), path
    assert float(metrics["grad_norm/wpe"]) == float(metrics["update_norm/wpe"]) == 0
    _, metrics = step(state, window(1, spoiled=True))
    assert not any(float(value) for name, value in metrics.items() if name.startswith("update_norm/"))
    assert not any("/" in name for name in make_train_step(make(), place)(init_state(make(), place), window(0))[1])
