"""Weights to start from, as options name them, and the sizes of the model that follow from them."""

import dataclasses
import re
from pathlib import Path

from gpt2jax import config as settings


def in_full(arg: str) -> str:
    """An argument with the short forms of options written out."""
    for short, full in (("init[-_]from", "training.init-from"), ("data", "data.path"), ("export", "training.export")):
        arg = re.sub(rf"^--{short}(?==|$)", f"--{full}", arg)
    return arg


def with_sizes_of_weights(
    training: settings.TrainingConfig, model: settings.ModelConfig, named: frozenset[str]
) -> settings.ModelConfig:
    """``model`` with the sizes of the weights to start from, but for those that are ``named``: as the run's folder
    recorded them, if it has begun."""
    assert training.init_from is not None
    recorded = Path(training.run_dir) / "config.yaml"
    before = settings.load(recorded) if recorded.exists() else None
    if before is not None and before.training.init_from == training.init_from:
        found = before.model
    else:
        from gpt2jax.weights.sources import config_of

        found = config_of(training.init_from)
    return dataclasses.replace(model, **{name: getattr(found, name) for name in set(settings.SIZES) - named})
