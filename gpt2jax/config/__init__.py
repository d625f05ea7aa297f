"""Every setting, typed and frozen, with what is allowed; read from YAML and checked once.

A settings file is a mapping of the sections of :class:`Config`. ``model`` may also be the name of a preset
(``model: gpt2-medium``) or a mapping with a ``preset`` key whose other keys change that preset.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import ValidationError

from gpt2jax.config.data import DataConfig
from gpt2jax.config.evaluation import EvaluationConfig
from gpt2jax.config.lora import LoraConfig
from gpt2jax.config.mesh import DistributedConfig, MeshConfig
from gpt2jax.config.model import ModelConfig
from gpt2jax.config.optimizer import OptimizerConfig
from gpt2jax.config.sampling import SamplingConfig
from gpt2jax.config.serving import ServingConfig
from gpt2jax.config.training import TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.fields import first_error, settings
from gpt2jax.presets import preset
from gpt2jax.yaml_file import read_yaml

__all__ = [
    "SIZES",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "EvaluationConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "ServingConfig",
    "TrainingConfig",
    "from_mapping",
    "load",
    "named_sizes",
    "to_yaml",
]


# What a model is, and not how it is computed.
SIZES = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "layer_norm_epsilon")


@settings("")
class Config:
    """All settings of a run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)


def from_mapping(mapping: Any, where: str) -> Config:
    """Check a mapping of sections against :class:`Config`; ``where`` (a file) heads every error line."""
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, dict):
        raise GPT2JaxError(f"{where}: {mapping!r}: should be a mapping of the sections {', '.join(_sections())}")
    mapping = {str(key): value for key, value in mapping.items()}
    try:
        model = mapping.get("model", {})
        model = {"preset": model} if isinstance(model, str) else model
        if isinstance(model, dict) and "preset" in model:
            model = preset(str(model["preset"])) | {key: value for key, value in model.items() if key != "preset"}
        if "model" in mapping:
            mapping["model"] = model
        for name, value in mapping.items():
            if name in _sections() and not isinstance(value, dict):
                raise GPT2JaxError(f"{name}: {value!r}: should be a mapping of keys to values")
        return pydantic.TypeAdapter(Config).validate_python(mapping)
    except ValidationError as error:
        raise GPT2JaxError(f"{where}: {first_error(error, Config, ())}") from None
    except GPT2JaxError as error:
        raise GPT2JaxError(f"{where}: {error}") from None


def _sections() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def load(path: str | Path) -> Config:
    """Read a settings file. Errors name the file, the key's path, the value and what is allowed."""
    return from_mapping(read_yaml(path), str(path))


def named_sizes(path: str | Path) -> frozenset[str]:
    """Which of :data:`SIZES` a settings file says; weights to start from say the others. A file that names a preset or
    any size but the context's says all of them."""
    model = (read_yaml(path) or {}).get("model") or {}
    if isinstance(model, str) or ({"preset", *SIZES} - {"n_ctx"}) & set(model):
        return frozenset(SIZES)
    return frozenset({"n_ctx"} & set(model))


def to_yaml(config: Config) -> str:
    """The whole of ``config`` as a settings file that :func:`load` reads back to an equal one."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
