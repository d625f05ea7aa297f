"""Parameters that training leaves as they are: whole rows of the table, and the lowest blocks."""

import fnmatch
from pathlib import PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax import parameters
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.parameters import Parameter, Params


def frozen_rows(config: Config) -> frozenset[str]:
    """Paths of the table that are frozen whole.

    Raises:
        GPT2JaxError: a pattern that is no parameter's, more blocks than there are, or nothing left to train; or there
            are adapters, which freeze everything.
    """
    if config.lora.rank and (config.training.freeze or config.training.freeze_layers):
        name = "freeze" if config.training.freeze else "freeze_layers"
        raise GPT2JaxError(
            f"training.{name}: {getattr(config.training, name)}: should be left out with lora.rank"
            f" ({config.lora.rank}), which freezes all parameters; lora.targets says what learns"
        )
    paths = [parameter.path for parameter in parameters.TABLE]
    frozen: set[str] = set()
    for pattern in config.training.freeze:
        found = fnmatch.filter(paths, pattern)
        if not found:
            known = {*paths, *(f"{folder}/*" for path in paths for folder in PurePosixPath(path).parents[:-1])}
            raise GPT2JaxError(f"training.freeze: {pattern!r}: is no parameter's path ({nearest(pattern, known)})")
        frozen.update(found)
    layers, there = config.training.freeze_layers, config.model.n_layer
    if layers > there:
        raise GPT2JaxError(f"training.freeze_layers: {layers}: should be at most model.n_layer ({there})")
    if layers == there:
        frozen.update(parameter.path for parameter in parameters.TABLE if parameter.stacked)
    if len(frozen) == len(paths):
        raise GPT2JaxError("training.freeze, training.freeze_layers: nothing is left to train")
    return frozenset(frozen)


def only_trained(config: Config, tree: Params) -> Params:
    """A gradient or the like with 0 where parameters are frozen, so that neither clipping nor a norm counts them."""
    return keep(config, jax.tree.map(jnp.zeros_like, tree), tree)


def keep(config: Config, old: Params, new: Params) -> Params:
    """``new`` where parameters are trained and ``old``, to the bit, where they are frozen."""
    frozen, layers = frozen_rows(config), config.training.freeze_layers
    if config.lora.rank:
        return new  # Adapters, all of which learn.

    def one(parameter: Parameter) -> Any:
        before, after = parameters.at(old, parameter), parameters.at(new, parameter)
        if parameter.path in frozen:
            return before
        if not layers or not parameter.stacked:
            return after
        numbers = jnp.arange(after.shape[0]).reshape(-1, *[1] * (after.ndim - 1))
        return jnp.where(numbers < layers, before, after)

    return parameters.tree(one)
