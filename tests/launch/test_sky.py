"""What launch/sky.yaml runs on its nodes, run here with the variables that SkyPilot sets."""

from pathlib import Path

import pytest
import yaml

from tests.launch.helpers import LAUNCH, TRAIN, Imitation, prepare_folder, run, run_together


def task(name: str) -> list[str]:
    return ["bash", "-c", yaml.safe_load((LAUNCH / name).read_text())["run"]]


def node(rank: int, count: int, command: list[str]) -> dict[str, str]:
    nodes = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": str(count)}
    return nodes | {"SKYPILOT_NODE_IPS": "\n".join(["127.0.0.1"] * count), "COMMAND": " ".join(command)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_folder(tmp_path_factory.mktemp("sky"))


def test_two_nodes_train_as_one_run(folder: Path, tmp_path: Path) -> None:
    imitation, command = Imitation(tmp_path), [*TRAIN, "--training.run-dir", "nodes"]
    printed = run_together(
        [(task("sky.yaml"), imitation.environment(**node(rank, 2, command))) for rank in range(2)], folder
    )
    assert "2 processes (environment), 4 devices, 2 on each" in printed[0]
    assert (folder / "nodes" / "report.md").exists()


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
