"""Settings: what is read, what is refused, and the one line that says why."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2jax import config as settings
from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.presets import preset

SIZES = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 16, 24),
    "gpt2-large": (1280, 20, 36),
    "gpt2-xl": (1600, 25, 48),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Config]:
    """Loads a settings file with the given text."""

    def load(text: str) -> Config:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return settings.load(path)

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {n_layers: 3}", "model.n_layers: unknown key (nearest: n_layer)"),
        ("optimizer: {zzz: 3}", "optimizer.zzz: unknown key (known: beta1, beta2, "),
        ("modle: {n_layer: 3}", "modle: unknown key (nearest: model)"),
        ("model: {n_layer: deep}", "model.n_layer: 'deep': should be a valid integer"),
        ("model: {n_layer: '3'}", "model.n_layer: '3': should be a valid integer"),
        ("model: {n_layer: 2.0}", "model.n_layer: 2.0: should be a valid integer"),
        ("model: {n_layer: true}", "model.n_layer: True: should be a valid integer"),
        ("model: {dropout: true}", "model.dropout: True: should be a valid number"),
        ("optimizer: {learning_rate: fast}", "optimizer.learning_rate: 'fast': should be a valid number"),
        ("optimizer: {learning_rate: .nan}", "optimizer.learning_rate: nan: should be"),
        ("optimizer: {weight_decay: .inf}", "optimizer.weight_decay: inf: should be"),
        ("optimizer: {learning_rate: -1e-3}", "optimizer.learning_rate: -0.001: should be greater than or equal to 0"),
        ("model: {dropout: .nan}", "model.dropout: nan: should be"),
        ("sampling: {top_p: .nan}", "sampling.top_p: nan: should be"),
        ("sampling: {top_p: 1.2}", "sampling.top_p: 1.2: should be less than or equal to 1"),
        ("model: {dropout: 1.0}", "model.dropout: 1.0: should be less than 1"),
        ("model: {n_ctx: 0}", "model.n_ctx: 0: should be greater than or equal to 1"),
        ("model: {n_embd: 100}", "model.n_embd: 100: should be a multiple of model.n_head (12)"),
        ("model: {remat: some}", "model.remat: 'some': should be 'none', 'attention', 'dots' or 'full'"),
        (
            "model: {compute_dtype: float16}",
            "model.compute_dtype: 'float16': should be 'auto', 'float32' or 'bfloat16'",
        ),
        ("model: gpt3", "model preset: 'gpt3': unknown (nearest: gpt2)"),
        ("model: {preset: gpt2-huge}", "model preset: 'gpt2-huge': unknown (nearest: gpt2-"),
        ("model: 3", "model: 3: should be a mapping"),
        ("optimizer: [1]", "optimizer: [1]: should be a mapping"),
        ("mesh: {data: 0}", "mesh.data: 0: should be at least 1, or -1"),
        ("mesh: {data: -2}", "mesh.data: -2: should be greater than or equal to -1"),
        ("mesh: {data: -1, fsdp: -1}", "mesh.data, fsdp, tensor: (-1, -1, 1): only one axis can be -1"),
        ("optimizer: {learning_rate: 1e-5}", "optimizer.min_learning_rate: 6e-05: should be at most"),
        ("optimizer: {warmup_steps: 5, decay_steps: 5}", "optimizer.decay_steps: 5: should be above"),
        ("training: {batch_size: 8, micro_batches: 3}", "training.batch_size: 8: should be a multiple of"),
        (
            "training: {micro_batches: 2, batch_size: 2, ramp: [3, 5]}",
            "training.micro_batches: 2: should be a multiple of 4",
        ),
        ("training: {micro_batches: 4, ramp: [5, 3]}", "training.ramp: (5, 3): should rise from step to step"),
        ("training: {ramp: [0]}", "training.ramp.0: 0: should be greater than or equal to 1"),
        ("optimizer: {name: adam}", "optimizer.name: 'adam': should be 'adamw', 'muon' or 'lion'"),
        ("optimizer: {schedule: wds}", "optimizer.schedule: 'wds': should be 'cosine', 'linear', 'constant' or 'wsd'"),
        ("model: {n_layer: 2}\nmodel: {n_layer: 3}", "not valid YAML (key 'model' is given twice"),
        ("model:\n  n_layer: 2\n  n_layer: 3\n", "not valid YAML (key 'n_layer' is given twice"),
        ("just text", "'just text': should be a mapping of the sections model, mesh, distributed, data, optim"),
        ("[1, 2]", "[1, 2]: should be a mapping of the sections"),
        ("model: {n_layer: [", "not valid YAML ("),
        ("model: !!python/object:os.system {}", "not valid YAML ("),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    read: Callable[[str], Config], tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(GPT2JaxError) as caught:
        read(text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'settings.yaml'}: {message}")
    assert "\n" not in line


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(GPT2JaxError, match=r"none\.yaml: no such settings file$"):
        settings.load(missing)
    with pytest.raises(GPT2JaxError, match="cannot be read"):
        settings.load(tmp_path)
    missing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GPT2JaxError, match="cannot be read"):
        settings.load(missing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(n_embd=100), "model.n_embd: 100: should be a multiple of model.n_head (12)"),
        (lambda: ModelConfig(n_layer=True), "model.n_layer: True: should be a valid integer"),
        (lambda: ModelConfig(n_layers=3), "model.n_layers: unknown key (nearest: "),  # type: ignore[call-arg]
        (lambda: ModelConfig(remat="half"), "model.remat: 'half': should be 'none', "),  # type: ignore[arg-type]
        (lambda: SamplingConfig(top_p=1.2), "sampling.top_p: 1.2: should be less than or equal to 1"),
        (lambda: MeshConfig(data=0), "mesh.data: 0: should be at least 1"),
        (lambda: TrainingConfig(batch_size=3, micro_batches=2), "training.batch_size: 3: should be a multiple"),
        (lambda: OptimizerConfig(epsilon=0.0), "optimizer.epsilon: 0.0: should be greater than 0"),
        (lambda: dataclasses.replace(ModelConfig(), n_head=7), "model.n_embd: 768: should be a multiple"),
    ],
)
def test_direct_construction_is_checked_too(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GPT2JaxError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("+1e-3", 1e-3), ("2e0", 2.0), ("0.5", 0.5), (".5", 0.5), ("1.5e-2", 0.015)],
)
def test_numbers_are_read_as_people_write_them(read: Callable[[str], Config], written: str, value: float) -> None:
    assert read(f"optimizer: {{learning_rate: {written}}}").optimizer.learning_rate == value


def test_a_whole_number_is_a_valid_rate(read: Callable[[str], Config]) -> None:
    assert read("sampling: {temperature: 1, top_p: 1}").sampling == SamplingConfig(temperature=1.0, top_p=1.0)


@pytest.mark.parametrize("text", ["", "{}", "# nothing but a comment\n"])
def test_an_empty_file_gives_the_defaults(read: Callable[[str], Config], text: str) -> None:
    assert read(text) == Config()


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_can_be_the_whole_model(read: Callable[[str], Config], name: str) -> None:
    model = read(f"model: {name}").model
    assert (model.n_embd, model.n_head, model.n_layer) == SIZES[name]
    assert (model.n_vocab, model.n_ctx, model.layer_norm_epsilon) == (50257, 1024, 1e-5)
    assert model.padded_vocab == 50304
    assert model.head_dim == 64


def test_a_presets_keys_can_be_changed(read: Callable[[str], Config]) -> None:
    assert read("model: {preset: gpt2-xl, n_layer: 2, dropout: 0.1}").model == ModelConfig(
        n_embd=1600, n_head=25, n_layer=2, dropout=0.1
    )


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("124M", "gpt2"),
        ("355M", "gpt2-medium"),
        ("774M", "gpt2-large"),
        ("1558M", "gpt2-xl"),
        ("117M", "gpt2"),
        ("345M", "gpt2-medium"),
        ("762M", "gpt2-large"),
        ("1542M", "gpt2-xl"),
        ("gpt2-small", "gpt2"),
    ],
)
def test_old_names_of_the_presets_work(alias: str, name: str) -> None:
    assert preset(alias) == preset(name)
    assert tuple(preset(alias).values()) == SIZES[name]


def test_changing_a_returned_preset_changes_no_other() -> None:
    preset("gpt2")["n_layer"] = 1
    assert preset("gpt2")["n_layer"] == 12


@pytest.mark.parametrize(("n_vocab", "padded"), [(1, 128), (128, 128), (129, 256), (257, 384), (50257, 50304)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(n_vocab: int, padded: int) -> None:
    assert ModelConfig(n_vocab=n_vocab).padded_vocab == padded


def test_writing_and_reading_gives_equal_settings(read: Callable[[str], Config]) -> None:
    changed = Config(
        model=ModelConfig(n_layer=2, dropout=0.1, layer_norm_epsilon=1e-6, remat="dots"),
        mesh=MeshConfig(data=2, fsdp=-1),
        optimizer=OptimizerConfig(learning_rate=1e-3, epsilon=1e-16, decay_steps=200),
        training=TrainingConfig(run_dir="runs/ü: #1", device_watts=300.0),
    )
    for config in (Config(), changed):
        assert read(settings.to_yaml(config)) == config
    assert changed != Config()


def test_settings_are_frozen_and_hashable() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.n_layer = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model = ModelConfig()  # type: ignore[misc]
    assert hash(config) == hash(Config())
    assert len({ModelConfig(), ModelConfig(), ModelConfig(n_layer=2)}) == 2


def test_a_ramp_is_where_its_batches_end() -> None:
    """Two doublings: a quarter of the micro-batches, then half of them, then all."""
    training = TrainingConfig(batch_size=16, micro_batches=8, ramp=(3, 5))
    at = [training.micro_batches_at(step) for step in range(8)]
    assert at == [2, 2, 2, 4, 4, 8, 8, 8]
    assert [training.micro_batches_before(step) for step in range(9)] == [sum(at[:step]) for step in range(9)]
    assert [TrainingConfig(micro_batches=2).micro_batches_before(step) for step in (0, 1, 7)] == [0, 2, 14]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("model: {dropout: 0.1}", set()),
        ("training: {steps: 3}", set()),
        ("model: {n_ctx: 512}", {"n_ctx"}),
        ("model: {n_ctx: 512, n_layer: 3}", set(settings.SIZES)),
        ("model: {preset: gpt2, n_ctx: 512}", set(settings.SIZES)),
        ("model: gpt2", set(settings.SIZES)),
    ],
)
def test_a_file_that_shortens_the_context_says_no_other_size(model: str, named: set[str], tmp_path: Path) -> None:
    """Those come from the weights to start from; as options, which are looked at later, do."""
    (tmp_path / "settings.yaml").write_text(model)
    assert settings.named_sizes(tmp_path / "settings.yaml") == named
