"""What a plan says a device holds, against what a process on eight virtual devices holds while steps run."""

import dataclasses

from benchmarks import memory, turns
from gpt2jax.config import Config, MeshConfig, ModelConfig, TrainingConfig
from gpt2jax.plan.estimate import plan_model, plan_training
from gpt2jax.plan.topology import parse_topology

EIGHT = parse_topology("h100-8")
# Some 60 MiB on each device, half of them the state. Measured are also 1 to 2 MiB of each device that no plan counts.
CONFIG = Config(
    model=ModelConfig(n_vocab=512, n_ctx=128, n_embd=256, n_head=4, n_layer=3),
    mesh=MeshConfig(data=8),
    training=TrainingConfig(batch_size=16),
)


def test_what_is_planned_is_what_is_held() -> None:
    planned = plan_training(CONFIG, EIGHT)
    model = plan_model(CONFIG.model, EIGHT, own=False)  # The program that was planned is the one that runs.
    with turns.running({"ours": memory.side(dataclasses.replace(CONFIG, model=model))}) as workers:
        found = workers["ours"].turn(1).output

    def near(number: float) -> bool:
        return abs(number / found["measured"] - 1) < 0.1

    assert found["planned"] == planned.total_bytes
    assert near(planned.total_bytes)
    state = planned.memory["parameters"] + planned.memory["optimizer state"]
    assert abs(state / found["measured_state"] - 1) < 0.1
    # Neither the state alone is near, nor what lacks the optimizer's.
    assert not near(state)
    assert not near(planned.total_bytes - planned.memory["optimizer state"])
