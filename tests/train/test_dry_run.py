"""What a run would put on each device: golden files, so that a change of the rules shows in review."""

import re
from pathlib import Path

import jax
import pytest

from gpt2jax.cli import main
from gpt2jax.config import Config, MeshConfig, ModelConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.partition import Partition, Rules, check_whole, make_mesh
from gpt2jax.presets import preset
from gpt2jax.train.dry_run import dry_run, shards, step
from tests.helpers import MESHES

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ModelConfig(n_vocab=257, n_ctx=16, n_embd=32, n_head=8, n_layer=2)
CUT = Rules(sequence=("tensor",))
COLLECTIVES = GOLDEN / "collectives.txt"
JAX = ".".join(jax.__version__.split(".")[:2])
HEAD = f"""\
# Collectives in the compiled training step of the small model in tests/train/test_dry_run.py, by jax {JAX}.
# data, fsdp, tensor: how many of each kind run; + cut: with training.sequence_sharding.
"""


def config(model: ModelConfig, mesh: tuple[int, int, int]) -> Config:
    data, fsdp, tensor = mesh
    return Config(
        model=model,
        mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor),
        training=TrainingConfig(batch_size=8, loss_chunk=8),
    )


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)])
def test_the_shards_of_gpt2_are_as_they_were(mesh: tuple[int, int, int]) -> None:
    """``python -m tests.train.test_dry_run`` writes the golden files anew."""
    settings = config(ModelConfig(**preset("gpt2")), mesh)  # type: ignore[arg-type]
    found = shards(settings, Partition(make_mesh(settings.mesh)))
    assert found + "\n" == golden(mesh).read_text()
    assert golden((1, 8, 1)).read_text() != golden((2, 2, 2)).read_text()


def golden(mesh: tuple[int, int, int]) -> Path:
    return GOLDEN / f"shards_{'_'.join(map(str, mesh))}.txt"


def talk(mesh: tuple[int, int, int], rules: Rules | None = None) -> str:
    """A line of the golden file, as the step is compiled now."""
    settings = config(SMALL, mesh)
    report = step(settings, Partition(make_mesh(settings.mesh), rules or Rules()))
    cut = " + cut" if rules == CUT else ""
    return f"{', '.join(map(str, mesh))}{cut}: {report.splitlines()[-1].removeprefix('collectives in the step: ')}"


def golden_talk(mesh: tuple[int, int, int], cut: bool = False) -> str | None:
    """The golden file's line of a mesh, unless another version of jax wrote the file."""
    head, *lines = COLLECTIVES.read_text().splitlines()
    assert re.search(r"by jax \d+\.\d+\.$", head)
    name = ", ".join(map(str, mesh)) + (" + cut" if cut else "")
    [line] = [line for line in lines if line.startswith(f"{name}: ")]
    return line if head in HEAD else None


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_talk_as_they_did(mesh: tuple[int, int, int]) -> None:
    """No all-to-all and no permutation: those would be a rule gone wrong."""
    line = talk(mesh)
    assert "all-to-all" not in line
    assert "collective-permute" not in line
    assert "all-reduce" in line
    assert golden_talk(mesh) in (line, None)


def test_devices_talk_as_they_did_with_positions_cut() -> None:
    line = talk((1, 1, 8), CUT)
    assert "all-gather" in line
    assert golden_talk((1, 1, 8), cut=True) in (line, None)


@pytest.mark.parametrize(
    ("mesh", "rules", "added"),
    [
        ((1, 8, 1), Rules(vocab=("tensor",), table=("fsdp",)), "all-to-all"),
        ((2, 2, 2), Rules(embed=(), heads=("fsdp",)), "collective-permute"),
    ],
)
def test_a_rule_gone_wrong_is_seen(mesh: tuple[int, int, int], rules: Rules, added: str) -> None:
    """The twin: the table cut along its width, and heads along the axis that gathers kernels."""
    line = talk(mesh, rules)
    assert added in line
    assert line != golden_talk(mesh)


def test_parameters_left_whole_are_refused_above_the_limit() -> None:
    place = Partition(make_mesh(MeshConfig(data=1, fsdp=8)))
    check_whole(ModelConfig(**preset("gpt2")), place, 0.02)  # type: ignore[arg-type]
    with pytest.raises(
        GPT2JaxError, match=r"mesh.max_whole: 0.02: 0.0\d+ of the parameters would be whole .*\(wpe, h/ln"
    ):
        check_whole(SMALL, place, 0.02)
    check_whole(SMALL, place, 0.1)
    check_whole(SMALL, Partition(make_mesh(MeshConfig(data=8))), 0.0)  # Copies are what data is for.


def test_a_dry_run_needs_no_data_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("model: {n_vocab: 257, n_ctx: 16, n_embd: 32, n_head: 4, n_layer: 2}\n")
    assert main(["train", "settings.yaml", "--dry-run", "--mesh.data", "4", "--mesh.tensor", "2"]) == 0
    out = capsys.readouterr().out
    assert "h/attn/c_attn/kernel  [2, 32, 3, 4, 8]  -, fsdp, -, tensor, -" in out
    assert "on each device" in out
    assert "more than mesh.max_whole (0.02): training will refuse it" in out
    assert "attention: xla" in out
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]
    with pytest.raises(GPT2JaxError, match=r"batch: 4: should be a multiple of the mesh's"):
        dry_run(Config(model=SMALL, mesh=MeshConfig(), training=TrainingConfig(batch_size=8, micro_batches=2)))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    for mesh in ((1, 8, 1), (2, 2, 2)):
        settings = config(ModelConfig(**preset("gpt2")), mesh)  # type: ignore[arg-type]
        golden(mesh).write_text(shards(settings, Partition(make_mesh(settings.mesh))) + "\n")
    lines = [*map(talk, MESHES), talk((1, 1, 8), CUT)]
    COLLECTIVES.write_text(HEAD + "".join(f"{line}\n" for line in lines))
