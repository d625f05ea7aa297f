"""What a run would put on each device: golden files, so that a change of the rules shows in review."""

from pathlib import Path

import jax
import pytest

from gpt2jax.cli import main
from gpt2jax.config import Config, MeshConfig, ModelConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.partition import Partition, check_whole, make_mesh
from gpt2jax.presets import preset
from gpt2jax.train.dry_run import collectives, dry_run, shards, step

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ModelConfig(n_vocab=257, n_ctx=16, n_embd=32, n_head=8, n_layer=2)
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
# Of the small model's step, by jax 0.10.
STEPS = {
    (8, 1, 1): "2 all-reduce",
    (1, 8, 1): "4 all-reduce, 11 all-gather",
    (1, 1, 8): "9 all-reduce",
    (2, 2, 2): "18 all-reduce, 11 all-gather",
}


def config(model: ModelConfig, mesh: tuple[int, int, int]) -> Config:
    data, fsdp, tensor = mesh
    return Config(
        model=model, mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor), training=TrainingConfig(batch_size=8)
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


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_talk_as_they_did(mesh: tuple[int, int, int]) -> None:
    """No all-to-all and no permutation: those would be a rule gone wrong."""
    settings = config(SMALL, mesh)
    report = step(settings, Partition(make_mesh(settings.mesh)))
    line = report.splitlines()[-1]
    assert "all-to-all" not in line
    assert "collective-permute" not in line
    assert "all-reduce" in line
    if jax.__version__.startswith("0.10."):
        assert line == f"collectives in the step: {STEPS[mesh]}"


def test_collectives_are_counted_in_a_program() -> None:
    program = """
      %a = f32[8]{0} all-reduce(%x), channel_id=1
      %b = (f32[4]{0}, f32[8]{0}) all-gather-start(%y), dimensions={0}
      %c = f32[8]{0} all-gather-done(%b)
      %d = f32[8]{0} fusion(%all-reduce.1), calls=%e
      ROOT %f = f32[8]{0} all-to-all(%z)
    """
    assert collectives(program) == {"all-reduce": 1, "all-gather": 1, "all-to-all": 1}


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
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]
    with pytest.raises(GPT2JaxError, match=r"batch: 4: should be a multiple of the mesh's"):
        dry_run(Config(model=SMALL, mesh=MeshConfig(), training=TrainingConfig(batch_size=8, micro_batches=2)))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    for mesh in ((1, 8, 1), (2, 2, 2)):
        settings = config(ModelConfig(**preset("gpt2")), mesh)  # type: ignore[arg-type]
        golden(mesh).write_text(shards(settings, Partition(make_mesh(settings.mesh))) + "\n")
    for mesh in MESHES:
        settings = config(SMALL, mesh)
        print(mesh, step(settings, Partition(make_mesh(settings.mesh))).splitlines()[-1])
