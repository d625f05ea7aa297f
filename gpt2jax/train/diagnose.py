"""Where a step's numbers stop being finite: parameters, activations layer by layer, gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax import digest, lora, model, parameters
from gpt2jax.config import Config
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.objective import tokens_and_weights
from gpt2jax.train.step import make_gradient


def diagnose(config: Config, place: Partition, params: Params, step: int, windows_ABT1: jax.Array) -> str:
    """One line on the step that follows ``step`` others, which is computed again, a piece at a time.

    Args:
        params: as they were before that step.
        windows_ABT1: its windows, A micro-batches of B sequences.
    """
    everywhere = place.sharding()
    number = jnp.asarray(step, jnp.int32)
    gradient = make_gradient(config, place)

    def examine(params: Params, step: jax.Array, windows_ABT1: jax.Array) -> Any:
        loss, grads = gradient(params, step, windows_ABT1)
        return loss, _finite(grads), _finite(params)

    loss, finite_grads, finite_params = jax.device_get(
        jax.jit(examine, out_shardings=everywhere)(params, number, windows_ABT1)
    )
    parts = [
        f"parameters: {_first(finite_params, downwards=False) or 'all finite'}",
        f"activations: {_first_activation(config, place, params, number, windows_ABT1) or 'all finite'}",
        # From the loss down to the embeddings: a gradient that is not finite spoils those that come after it.
        f"gradient, as the backward pass goes: {_first(finite_grads, downwards=True) or 'all finite'}",
    ]
    return f"step {step + 1}: the loss is {float(loss)}; {'; '.join(parts)}"


def _finite(tree: Params) -> dict[str, jax.Array]:
    """Of each leaf, whether it is finite: [L] of a stacked one, [1] of another."""
    return {
        path: jnp.isfinite(leaf).reshape(leaf.shape[0] if _stacked(path) else 1, -1).all(1)
        for path, leaf in digest.paths(tree).items()
    }


def _stacked(path: str) -> bool:
    return path.startswith(("h/", f"{lora.KEY}/"))


def _first(finite: dict[str, np.ndarray], downwards: bool) -> str:
    """The first leaf that is not finite, from the embeddings up or from the final layer norm down."""
    layers = range(max(map(len, finite.values())))
    # The table's order, and adapters after the parameters of their block.
    known = [row.path for row in parameters.TABLE if row.path in finite]
    known += [path for path in finite if path not in known]
    low = [(path, 0) for path in known if path in ("wte", "wpe")]
    blocks = [(path, layer) for layer in layers for path in known if _stacked(path)]
    high = [(path, 0) for path in known if not _stacked(path) and (path, 0) not in low]
    order = [*low, *blocks, *high]
    for path, layer in reversed(order) if downwards else order:
        if not finite[path][layer]:
            return f"the first not finite is {path}{f' of block {layer}' if _stacked(path) else ''}"
    return ""


def _first_activation(
    config: Config, place: Partition, params: Params, step: jax.Array, windows_ABT1: jax.Array
) -> str:
    def finite(params: Params, window_BT1: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.training.seed), step), index)
        states_LBTD = model.hidden_states(
            lora.scaled(params, config.lora),
            tokens_and_weights(window_BT1)[0][:, :-1],
            config.model,
            partition=place,
            dropout_key=key if config.model.dropout else None,
        )
        return jnp.isfinite(states_LBTD).all((2, 3))

    of = jax.jit(finite, out_shardings=place.sharding())
    for index in range(windows_ABT1.shape[0]):
        finite_LB = np.asarray(of(params, windows_ABT1[index], step, jnp.asarray(index, jnp.int32)))
        for layer, finite_B in enumerate(finite_LB):
            if not finite_B.all():
                name = f"block {layer - 1}" if layer else "the embedding"
                last = " or of the final layer norm" if layer == config.model.n_layer else ""
                rows = ", ".join(map(str, np.flatnonzero(~finite_B)))
                return f"the first not finite are those of {name}{last}, in sequence {rows} of micro-batch {index}"
    return ""
