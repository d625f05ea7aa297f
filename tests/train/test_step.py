"""The jitted training step."""

import dataclasses
import math
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt2jax.attention import CACHED_SCORES
from gpt2jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.partition import AXES, Partition
from gpt2jax.train import step
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.step import (
    CPU_OPTIONS,
    compiler_options,
    init_state,
    lower_step,
    make_eval_step,
    make_train_step,
    unrolled,
)
from tests.helpers import TINY, distance, equations, place_on, random_tokens, relative_distance

SMALL = ModelConfig(n_vocab=100, n_ctx=16, n_embd=16, n_head=2, n_layer=2)


def settings(model: ModelConfig = SMALL, **optimizer: Any) -> Config:
    given = {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 0} | optimizer
    return Config(model=model, optimizer=OptimizerConfig(**given), training=TrainingConfig(steps=300, loss_chunk=8))


def test_a_long_data_parallel_run_goes_through_and_learns_its_batch(compiled: list[str]) -> None:
    # XLA's CPU client deadlocks here within 200 steps when its thread pool is no larger than the machine (conftest).
    config, place = settings(), place_on(8, 1, 1)
    state, step = init_state(config, place), make_train_step(config, place)
    windows_ABT1 = random_tokens(0, 1, 8, 17, n_vocab=100)
    reported = []
    for _ in range(300):
        state, metrics = step(state, windows_ABT1)
        reported.append(metrics["loss"])
    losses = [float(loss) for loss in reported]
    assert abs(losses[0] - np.log(100)) < 0.1
    assert losses[-1] < 0.2 * losses[0]
    assert int(state.step) == 300
    assert compiled.count("jit(step)") == 1


def test_the_step_compiles_once_and_consumes_its_state(compiled: list[str]) -> None:
    config, place = settings(TINY), place_on(2, 2, 2)
    state, step = init_state(config, place), make_train_step(config, place)
    windows = [random_tokens(seed, 1, 8, 33) for seed in range(4)]
    old = state
    state, _ = step(state, windows[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert compiled.count("jit(step)") == 1
    compiled.clear()
    for window in windows[1:]:
        state, _ = step(state, window)
    assert compiled == []
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_the_step_copies_no_state_on_a_cpu() -> None:
    """The twin is the same step without the option: the compiler then copies moments before it updates them."""
    _, lowered = lower_step(settings(), place_on(1, 1, 1))
    copies = [
        len(re.findall(r"= \S+ copy\(%state", lowered.compile(options).as_text()))
        for options in (None, dict.fromkeys(CPU_OPTIONS, False))
    ]
    assert copies[0] == 0
    assert copies[1] > 0


def test_one_cpu_device_has_its_float32_products_from_eigen_and_its_sums_from_ynnpack() -> None:
    def by_ynnpack(options: dict[str, Any] | None) -> list[bool]:
        texts = (
            jax.jit(function, compiler_options=options).lower(jnp.ones((256, 256))).compile().as_text() or ""
            for function in (lambda x: x @ x, lambda x: x.sum(0))
        )
        return ["kind=kCustom" in text and "ynn" in text for text in texts]

    alone, bfloat16 = place_on(1, 1, 1), dataclasses.replace(SMALL, compute_dtype="bfloat16")
    assert by_ynnpack(compiler_options(SMALL, alone)) == [False, True]
    # Twins: without the option products are YNNPACK's as well; and where that is faster, it is left out.
    assert by_ynnpack(None) == [True, True]
    assert by_ynnpack(compiler_options(bfloat16, alone)) == [True, True]
    assert by_ynnpack(compiler_options(SMALL, place_on(8, 1, 1))) == [True, True]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_eight_devices_learn_what_one_does(name: str) -> None:
    results = {}
    # A large epsilon keeps Adam from making whole steps of gradients that are but rounding.
    config = settings(TINY, epsilon=1e-3, name=name)
    for sizes in ((1, 1, 1), (2, 2, 2)):
        place = place_on(*sizes)
        state, step = init_state(config, place), make_train_step(config, place)
        metrics = []
        for seed in range(3):
            state, found = step(state, random_tokens(seed, 1, 8, 33))
            metrics.append(found)
        results[sizes] = (jax.device_get(state.params), jax.device_get(metrics))
    assert relative_distance(results[2, 2, 2][0], results[1, 1, 1][0]) < 1e-4
    assert relative_distance(results[2, 2, 2][1], results[1, 1, 1][1]) < 1e-5
    losses = [float(metrics["loss"]) for metrics in results[1, 1, 1][1]]
    assert len(set(losses)) == 3


def one_step(config: Config, place: Partition, windows_ABT1: jax.Array) -> tuple[Any, Any, Any]:
    """Parameters, first moments and metrics after one step."""
    state, metrics = make_train_step(config, place)(init_state(config, place), windows_ABT1)
    return state.params, optax.tree_utils.tree_get(state.opt_state, "mu"), metrics


def test_gpus_that_hold_all_parameters_and_one_cpu_with_a_small_model_train_without_a_loop() -> None:
    def turns(platform: str, *mesh: int, mask: bool = False, rows: int = 8, parts: int = 1, **changes: Any) -> int:
        devices = np.array([SimpleNamespace(platform=platform)] * math.prod(mesh)).reshape(mesh)
        shape = dict(zip(AXES, mesh, strict=True))
        place = Partition(SimpleNamespace(devices=devices, shape=shape, size=devices.size))  # type: ignore[arg-type]
        model = dataclasses.replace(TINY, **{"compute_dtype": "bfloat16"} | changes)
        training = TrainingConfig(batch_size=rows, micro_batches=parts)
        config = Config(model=model, data=DataConfig(document_mask=mask), training=training)
        return unrolled(config, place).scan_unroll

    assert TINY.n_layer == 2
    assert turns("gpu", 1, 1, 1) == turns("gpu", 8, 1, 1) == turns("gpu", 1, 1, 1, parts=2) == 2
    assert turns("gpu", 4, 2, 1) == turns("gpu", 4, 1, 2) == 1
    assert turns("tpu", 1, 1, 1) == turns("tpu", 8, 1, 1) == 1
    assert turns("gpu", 1, 1, 1, dropout=0.1) == turns("gpu", 1, 1, 1, mask=True) == 1
    assert turns("gpu", 1, 1, 1, compute_dtype="float32") == turns("gpu", 1, 1, 1, attention="xla") == 1
    assert turns("gpu", 1, 1, 1, scan_unroll=1) == 1
    assert turns("cpu", 1, 1, 1) == turns("cpu", 8, 1, 1, scan_unroll=2) == 2
    assert turns("cpu", 8, 1, 1) == turns("cpu", 1, 1, 1, remat="attention") == 1
    assert turns("cpu", 1, 1, 1, scan_unroll=1) == turns("cpu", 1, 1, 1, n_ctx=128, attention="splash") == 1
    assert turns("cpu", 1, 1, 1, parts=2) == 1
    assert turns("cpu", 1, 1, 1, n_embd=1024, n_layer=2) == 2
    assert turns("cpu", 1, 1, 1, n_embd=1024, n_layer=3) == 1
    many = CACHED_SCORES // (TINY.n_head * TINY.n_ctx**2)  # Rows whose scores are still kept.
    assert (turns("cpu", 1, 1, 1, rows=many), turns("cpu", 1, 1, 1, rows=many + 1)) == (2, 1)


def test_the_step_is_unrolled_as_its_devices_want(monkeypatch: pytest.MonkeyPatch) -> None:
    def loops() -> list[int]:
        config, place = settings(), place_on(1, 1, 1)
        state, windows = init_state(config, place), random_tokens(0, 8, 17, n_vocab=100)[None]
        found = equations(make_train_step(config, place).trace(state, windows).jaxpr.jaxpr)
        return [eqn.params["unroll"] for eqn in found if eqn.primitive.name == "scan" and eqn.params["length"] == 2]

    assert 2 in loops()
    monkeypatch.setattr(step, "unrolled", lambda config, place: dataclasses.replace(config.model, scan_unroll=1))
    assert set(loops()) == {1}


def test_metrics_are_of_the_batch_before_the_update() -> None:
    config, place = settings(clip_norm=0.01, warmup_steps=3), place_on(1, 1, 1)
    window_BT1 = random_tokens(0, 8, 17, n_vocab=100)
    params = init_state(config, place).params

    def mean(params: Any) -> jax.Array:
        total, count = loss_sum(params, window_BT1, SMALL, chunk=16)
        return total / count

    loss, grads = jax.jit(jax.value_and_grad(mean))(params)
    _, moment, metrics = one_step(config, place, window_BT1[None])
    counts = {"skipped", "skipped_in_a_row", "skipped_in_all"}
    assert set(metrics) == {"loss", "grad_norm", "learning_rate"} | counts
    assert not any(float(metrics[name]) for name in counts)
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    norm = np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(grads)))
    assert norm > 0.1  # So that clipping counts below.
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(metrics["learning_rate"]) == pytest.approx(1e-2 / 4, rel=1e-6)
    clipped = jax.tree.map(lambda leaf: 0.1 * leaf * (0.01 / norm), grads)
    assert relative_distance(moment, clipped) < 1e-4


def test_dropout_is_another_in_every_step_and_micro_batch_and_the_same_in_a_second_run() -> None:
    still: dict[str, Any] = {"learning_rate": 0.0, "min_learning_rate": 0.0}
    config = settings(dataclasses.replace(SMALL, dropout=0.3), **still)
    place, window_BT1 = place_on(1, 1, 1), random_tokens(0, 4, 17, n_vocab=100)
    step = make_train_step(config, place)

    def losses(windows_ABT1: jax.Array) -> list[float]:
        state, found = init_state(config, place), []
        for _ in range(3):
            state, metrics = step(state, windows_ABT1)
            found.append(float(metrics["loss"]))
        return found

    first = losses(window_BT1[None])
    assert len(set(first)) == 3
    assert losses(window_BT1[None]) == first
    # The first micro-batch drops as a step without micro-batches does; were the second the same, so were the mean.
    both = losses(jnp.stack([window_BT1, window_BT1]))
    assert all(abs(a - b) > 1e-4 for a, b in zip(first, both, strict=True))
    # Twin: without dropout, nothing changes from step to step at a learning rate of 0.
    step = make_train_step(settings(**still), place)
    assert len(set(losses(window_BT1[None]))) == 1


def test_two_runs_are_the_same_bits_and_another_seed_is_not() -> None:
    place, window_ABT1 = place_on(2, 2, 1), random_tokens(0, 1, 4, 17, n_vocab=100)
    config = settings()
    first, again = (one_step(config, place, window_ABT1)[0] for _ in range(2))
    assert distance(first, again) == 0
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1))
    assert distance(one_step(other, place, window_ABT1)[0], first) > 1e-2


def test_the_evaluation_step_sums_weighted_losses() -> None:
    window_BT1 = random_tokens(0, 8, 17, n_vocab=100)
    weights_BT = jnp.ones((8, 16)).at[5:].set(0.0)
    sums = {}
    for sizes in ((1, 1, 1), (2, 2, 2)):
        place = place_on(*sizes)
        state = init_state(settings(), place)
        total, count = make_eval_step(SMALL, place, 8)(state.params, window_BT1, weights_BT)
        assert float(count) == 5 * 16
        sums[sizes] = float(total)
        short = loss_sum(jax.device_put(state.params, jax.devices()[0]), window_BT1[:5], SMALL, chunk=16)[0]
        assert sums[sizes] == pytest.approx(float(short), rel=1e-6)
    assert sums[1, 1, 1] == pytest.approx(sums[2, 2, 2], rel=1e-6)
