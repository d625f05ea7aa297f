"""Adapters: they begin at nothing, learn alone, and compute what their merged kernels compute."""

from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax import lora, model
from gpt2jax.config import Config, LoraConfig, OptimizerConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Params
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.step import abstract_state, init_state, make_train_step
from tests.helpers import TINY, by_path, distance, place_on, random_tokens


def make(
    rank: int = 4, optimizer: str = "adamw", targets: tuple[str, ...] = ("h/*/kernel",), **training: Any
) -> Config:
    return Config(
        model=TINY,
        lora=LoraConfig(rank=rank, targets=targets),
        optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2, warmup_steps=0),  # type: ignore[arg-type]
        training=TrainingConfig(loss_chunk=16, batch_size=8, **training),
    )


def trained(config: Config, sizes: tuple[int, int, int], parts: int = 1) -> tuple[Params, list[float]]:
    """Parameters and losses of three steps; that the model's own stay the same bits is looked at on the way."""
    place = place_on(*sizes)
    state, step = init_state(config, place), make_train_step(config, place)
    before, losses = by_path(jax.device_get(lora.without_adapters(state.params))), []
    for seed in range(3):
        state, metrics = step(state, random_tokens(seed, 8, 33).reshape(parts, 8 // parts, 33))
        losses.append(float(metrics["loss"]))
    for path, after in by_path(jax.device_get(lora.without_adapters(state.params))).items():
        assert after.tobytes() == before[path].tobytes(), path
    for path, leaf in by_path(state.params[lora.KEY]).items():
        assert np.abs(np.asarray(leaf)).max() > 0, path  # B no longer is 0: all of them learn.
    return state.params, losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
def test_a_mesh_and_parts_of_a_batch_change_nothing(optimizer: str) -> None:
    params, alone = trained(make(optimizer=optimizer), (1, 1, 1))
    _, losses = trained(make(optimizer=optimizer), (2, 2, 2))
    assert losses == pytest.approx(alone, abs=2e-6)
    if optimizer == "adamw":
        _, in_parts = trained(make(micro_batches=2), (2, 2, 1), parts=2)
        assert in_parts == pytest.approx(alone, abs=2e-6)
        assert trained(make(rank=2), (1, 1, 1))[1] != pytest.approx(alone, abs=2e-6)  # Twin.
    # What it learned computes as the kernels that it is merged into.
    tokens_BT, config = random_tokens(9, 2, 16), make().lora
    logits_BTV = model.forward(lora.scaled(params, config), tokens_BT, TINY)
    assert distance(logits_BTV, model.forward(lora.merged(params, config), tokens_BT, TINY)) < 2e-6
    assert distance(logits_BTV, model.forward(lora.without_adapters(params), tokens_BT, TINY)) > 1e-2
    assert distance(logits_BTV, model.forward(params, tokens_BT, TINY)) > 1e-2  # Twin: alpha / rank left out.


def test_it_begins_as_the_model_was() -> None:
    place, windows_ABT1 = place_on(1, 1, 1), random_tokens(0, 1, 8, 33)
    losses = {}
    for rank in (0, 4):
        state = init_state(make(rank), place)
        losses[rank] = [float(make_train_step(make(rank), place)(state, windows_ABT1)[1]["loss"])]
    assert losses[0] == losses[4]


def test_no_state_is_kept_for_the_model() -> None:
    place = place_on(1, 1, 1)
    leaves = jax.tree.leaves(abstract_state(make(), place).opt_state)
    assert sum(leaf.size for leaf in leaves if leaf.ndim) == 2 * lora.count(make().lora, TINY)


def test_the_step_makes_no_gradient_of_a_kernel() -> None:
    """A third of the products of a block are gradients of its kernels, which adapters of rank 1 do without."""
    place = place_on(1, 1, 1)
    windows = jax.ShapeDtypeStruct((1, 8, 33), np.int32)

    def flops(config: Config) -> float:
        cost = make_train_step(config, place).lower(abstract_state(config, place), windows).compile().cost_analysis()
        assert cost is not None
        return float(cost["flops"])

    assert flops(make(1)) < 0.85 * flops(make(0))


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        (("h/attn/*/kernel",), ["h/attn/c_attn/kernel", "h/attn/c_proj/kernel"]),
        (("*c_proj*",), ["h/attn/c_proj/kernel", "h/mlp/c_proj/kernel"]),
    ],
)
def test_targets_are_kernels(targets: tuple[str, ...], paths: list[str]) -> None:
    assert [row.path for row in lora.targets(make(targets=targets).lora)] == paths
    trained(make(targets=targets), (1, 1, 1))


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: lora.targets(LoraConfig(rank=1, targets=("wte",))), r"lora\.targets: 'wte': is no kernel's path"),
        (lambda: lora.targets(LoraConfig(rank=1, targets=())), r"lora\.targets: \(\): should name a kernel"),
        (lambda: frozen_rows(make(freeze=("wte",))), r"training\.freeze: \('wte',\): should be left out with lora"),
        (lambda: frozen_rows(make(freeze_layers=1)), r"training\.freeze_layers: 1: should be left out with lora"),
    ],
)
def test_what_cannot_be_is_refused(make_it: Any, message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        make_it()
