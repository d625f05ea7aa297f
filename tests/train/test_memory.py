"""The estimate of a step's memory against what its compiler counts.

``python -m tests.train.test_memory`` prints both.
"""

import dataclasses
from typing import Any

import jax
import pytest

from gpt2jax.config import Config, LoraConfig, ModelConfig, TrainingConfig
from gpt2jax.partition import Partition, local_bytes
from gpt2jax.train.memory import estimate, memory_line
from gpt2jax.train.step import lower_step
from tests.helpers import place_on

MODEL = ModelConfig(n_vocab=1024, n_ctx=256, n_embd=128, n_head=4, n_layer=4)
# Settings, and the mesh.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int, int]]] = {
    "plain": ({}, {}, (1, 1, 1)),
    "deep": ({"n_layer": 8}, {}, (1, 1, 1)),
    "few rows": ({}, {"batch_size": 4}, (1, 1, 1)),
    "vocabulary": ({"n_vocab": 16384}, {}, (1, 1, 1)),
    "parts": ({}, {"micro_batches": 2}, (1, 1, 1)),
    "attention": ({"remat": "attention"}, {}, (1, 1, 1)),
    "dots": ({"remat": "dots"}, {}, (1, 1, 1)),
    "full": ({"remat": "full"}, {}, (1, 1, 1)),
    "fsdp": ({}, {}, (1, 4, 1)),
    "tensor": ({}, {}, (1, 1, 4)),
}


def settings(name: str, rank: int) -> tuple[Config, Partition]:
    model, training, sizes = CASES[name]
    config = Config(
        model=dataclasses.replace(MODEL, **model),
        training=TrainingConfig(**{"batch_size": 16} | training),
        lora=LoraConfig(rank=rank),
    )
    return config, place_on(*sizes)


def counted(config: Config, place: Partition) -> int:
    """Bytes of one device, by the compiler."""
    state, lowered = lower_step(config, place)
    temporaries = lowered.compile().memory_analysis().temp_size_in_bytes
    return local_bytes(state.params) + local_bytes(state.opt_state) + int(temporaries)


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("name", ["plain", "vocabulary", "dots", "full", "tensor"])
def test_the_estimate_is_near(name: str, rank: int) -> None:
    config, place = settings(name, rank)
    found = counted(config, place)
    assert 1 / FACTOR < estimate(config, place).total / found < FACTOR
    # That of another program is not.
    few = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=4))
    other = dataclasses.replace(config.model, remat="none" if config.model.remat == "full" else "full")
    for changed in (few, dataclasses.replace(config, model=other)):
        assert not 1 / FACTOR < estimate(changed, place).total / found < FACTOR


FACTOR = 1.15


def test_it_is_said_in_a_line_that_compiles_nothing(compiled: list[str]) -> None:
    line = memory_line(Config(model=MODEL), place_on(1, 1, 1))
    assert line.startswith("memory, estimated: 0.")
    assert "GiB on each device (parameters 0.00, optimizer 0.01" in line
    assert not compiled


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    for rank in (0, 8):
        for name in CASES:
            config, place = settings(name, rank)
            estimated, found = estimate(config, place).total, counted(config, place)
            print(
                f"{name:<12} rank {rank}: {estimated / 2**20:8.1f} of {found / 2**20:8.1f} MiB, {estimated / found:.2f}"
            )
