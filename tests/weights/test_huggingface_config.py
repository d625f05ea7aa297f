"""config.json: what is ours is taken, what is not is refused by its field."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2jax import tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.weights import huggingface_config


def written(path: Path, **values: Any) -> Path:
    path = path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_embd": 64, "n_head": 4, **values}))
    return path


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"n_inner": None},
        {"n_inner": 256},
        {"activation_function": "gelu_pytorch_tanh"},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "tie_word_embeddings": True},
        {"task_specific_params": {"text-generation": {"do_sample": True}}, "summary_type": "cls_index"},
    ],
)
def test_variants_that_compute_the_same_are_taken(tmp_path: Path, values: dict[str, Any]) -> None:
    assert huggingface_config.read(written(tmp_path, **values)) == ModelConfig(n_embd=64, n_head=4, dropout=0.1)


def test_epsilon_and_dropout_are_taken(tmp_path: Path) -> None:
    rates = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
    config = huggingface_config.read(written(tmp_path, layer_norm_epsilon=1e-6, **rates))
    assert (config.layer_norm_epsilon, config.dropout) == (1e-6, 0.2)
    for odd in (0.0, None, [0.2], 7):
        assert huggingface_config.read(written(tmp_path, **rates | {"attn_pdrop": odd})).dropout == 0.0
    nothing: dict[str, Any] = dict.fromkeys(rates, None)
    assert huggingface_config.read(written(tmp_path, **nothing)).dropout == 0.0


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("model_type", "gpt_neo", '"gpt2"'),
        ("n_inner", 128, "null or 256"),
        ("activation_function", "gelu", "one of gelu_new, gelu_pytorch_tanh, gelu_fast"),
        ("scale_attn_by_inverse_layer_idx", True, "false"),
        ("scale_attn_weights", False, "true"),
        ("add_cross_attention", True, "false"),
        ("tie_word_embeddings", False, "true"),
    ],
)
def test_what_is_not_ours_is_refused_by_its_field(tmp_path: Path, field: str, value: Any, allowed: str) -> None:
    path = written(tmp_path, **{field: value})
    with pytest.raises(GPT2JaxError) as caught:
        huggingface_config.read(path)
    assert str(caught.value) == f"{path}: {field}: {json.dumps(value)}: should be {allowed}"


def test_impossible_sizes_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GPT2JaxError, match=r"config\.json: model\.n_embd: 64: should be a multiple"):
        huggingface_config.read(written(tmp_path, n_head=5))
    with pytest.raises(GPT2JaxError, match=r"config\.json: model\.n_layer: '12'"):
        huggingface_config.read(written(tmp_path, n_layer="12"))
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(GPT2JaxError, match=r"config\.json: "):
            huggingface_config.read(tmp_path / "config.json")


def test_what_is_written_reads_as_it_was(tmp_path: Path) -> None:
    config = ModelConfig(n_vocab=257, n_ctx=32, n_embd=64, n_head=8, n_layer=2, dropout=0.3, layer_norm_epsilon=1e-6)
    text = huggingface_config.config_json(config, tokenizer.byte_level(), "float32")
    (tmp_path / "config.json").write_text(text)
    assert huggingface_config.read(tmp_path / "config.json") == config
    assert json.loads(text)["eos_token_id"] == 256
    assert json.loads(huggingface_config.generation_config_json(None))["eos_token_id"] is None
