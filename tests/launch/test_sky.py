"""What launch/sky.yaml runs on its nodes, run here with the variables that SkyPilot sets."""

import sys
from pathlib import Path

import yaml

from tests.launch.helpers import LAUNCH, Imitation, run, run_together


def task(name: str) -> list[str]:
    return ["bash", "-c", yaml.safe_load((LAUNCH / name).read_text())["run"]]


def node(rank: int, count: int, command: list[str]) -> dict[str, str]:
    nodes = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": str(count)}
    return nodes | {"SKYPILOT_NODE_IPS": "\n".join(["127.0.0.1"] * count), "COMMAND": " ".join(command)}


MEET = """
from gpt2jax.cli.parse import start
from gpt2jax.config import DistributedConfig
start(2, DistributedConfig(timeout=60))
"""


def test_two_nodes_meet(tmp_path: Path) -> None:
    (tmp_path / "meet.py").write_text(MEET)
    env = Imitation(tmp_path).environment()
    printed = run_together(
        [(task("sky.yaml"), env | node(rank, 2, [sys.executable, "meet.py"])) for rank in range(2)], tmp_path
    )
    assert "2 processes (environment), 4 devices, 2 on each" in printed[0]


def test_one_node_has_nobody_to_meet(tmp_path: Path) -> None:
    done = run(task("sky.yaml"), tmp_path, Imitation(tmp_path).environment(**node(0, 1, ["env"])))
    assert "GPT2JAX_STOPPED_STATUS=75" in done.stdout
    assert "JAX_COORDINATOR_ADDRESS" not in done.stdout


def test_on_a_slice_jax_is_told_to_ask_for_the_hosts(tmp_path: Path) -> None:
    imitation = Imitation(tmp_path)
    imitation.add("gpt2jax")
    env = imitation.environment(**node(1, 4, ["gpt2jax", "train", "'a b.yaml'"]))
    assert run(task("sky_tpu.yaml"), tmp_path, env).returncode == 0
    assert imitation.calls("gpt2jax") == [["train", "a b.yaml", "--distributed.auto"]]
