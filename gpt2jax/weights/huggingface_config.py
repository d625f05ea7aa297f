"""config.json of Hugging Face's GPT-2: what it says of the model, and what of that this model is not."""

import json
from pathlib import Path
from typing import Any

import tiktoken

from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import read_json
from gpt2jax.tokenizer import end_of_text
from gpt2jax.weights.arrays import DType

# Names of the tanh form of GELU; the first is the one that Hugging Face's GPT-2 has.
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")

# Fields that change what the model computes, with the only value that is ours. reorder_and_upcast_attn is not among
# them: it moves a multiplication and asks for a float32 softmax, which ours always is.
_FIXED: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read(path: Path) -> ModelConfig:
    """The model that a config.json describes.

    Raises:
        GPT2JaxError: not readable, or a field asks for what this model does not compute: the first one is named.
    """
    values = read_json(path)

    def refuse(field: str, allowed: str) -> None:
        raise GPT2JaxError(f"{path}: {field}: {json.dumps(values.get(field))}: should be {allowed}")

    if values.get("model_type", "gpt2") != "gpt2":
        refuse("model_type", '"gpt2"')
    for field, wanted in _FIXED.items():
        if values.get(field, wanted) != wanted:
            refuse(field, json.dumps(wanted))
    if values.get("activation_function", ACTIVATIONS[0]) not in ACTIVATIONS:
        refuse("activation_function", f"one of {', '.join(ACTIVATIONS)}")
    sizes = {
        ours: values.get(theirs, default)
        for ours, theirs, default in (
            ("n_vocab", "vocab_size", 50257),
            ("n_ctx", "n_positions", 1024),
            ("n_embd", "n_embd", 768),
            ("n_head", "n_head", 12),
            ("n_layer", "n_layer", 12),
            ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        )
    }
    try:
        config = ModelConfig(dropout=_dropout(values), **sizes)
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{path}: {error}") from None
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        refuse("n_inner", f"null or {4 * config.n_embd}")
    return config


def _dropout(values: dict[str, Any]) -> float:
    """Ours where the three places agree, else none: it matters to training alone, which sets its own."""
    rates = [values.get(field, 0.1) for field in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
    rate = rates[0]
    return float(rate) if isinstance(rate, int | float) and 0 <= rate < 1 and rates == [rate] * 3 else 0.0


def config_json(config: ModelConfig, encoding: tiktoken.Encoding | None, dtype: DType) -> str:
    """The text of config.json for a model of ours."""
    end = None if encoding is None else end_of_text(encoding)
    values = {
        "activation_function": ACTIVATIONS[0],
        "add_cross_attention": False,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": config.dropout,
        "bos_token_id": end,
        "embd_pdrop": config.dropout,
        "eos_token_id": end,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "model_type": "gpt2",
        "n_ctx": config.n_ctx,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_inner": None,
        "n_layer": config.n_layer,
        "n_positions": config.n_ctx,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": config.dropout,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.n_vocab,
    }
    return json.dumps(values, indent=2) + "\n"


def generation_config_json(encoding: tiktoken.Encoding | None) -> str:
    """The text of generation_config.json: where a text ends."""
    end = None if encoding is None else end_of_text(encoding)
    return json.dumps({"_from_model_config": True, "bos_token_id": end, "eos_token_id": end}, indent=2) + "\n"


def tokenizer_config_json(config: ModelConfig, encoding: tiktoken.Encoding) -> str:
    """The text of tokenizer_config.json."""
    by_bytes = encoding.name != "characters"
    values: dict[str, Any] = {
        "model_max_length": config.n_ctx,
        "tokenizer_class": "GPT2Tokenizer" if by_bytes else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if by_bytes:
        end = encoding.decode([encoding.eot_token])
        values |= {"add_prefix_space": False, "bos_token": end, "eos_token": end, "unk_token": end}
    return json.dumps(values, indent=2) + "\n"
