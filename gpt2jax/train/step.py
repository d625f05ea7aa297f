"""The training step: one jitted, donated function from state and batch to state and metrics."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt2jax import parameters, partition
from gpt2jax.config import Config, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, Rules, check_whole, make_mesh
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.optimizer import make_optimizer, schedule

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes from step to step; with the settings, all that a resumed run needs."""

    step: jax.Array
    """int32: steps done. Batch, dropout and learning rate of the next step are functions of it."""
    params: Params
    opt_state: Any


def make_place(config: Config, devices: Sequence[Any] | None = None) -> Partition:
    """The mesh and the rules of a training run.

    Args:
        devices: by default all there are.

    Raises:
        GPT2JaxError: the mesh does not divide the devices, the model or the batch, or leaves too much whole.
    """
    sequence = ("tensor",) if config.training.sequence_sharding else ()
    place = Partition(make_mesh(config.mesh, devices), Rules(sequence=sequence))
    place.check(config.model, batch=config.training.batch_size // config.training.micro_batches)
    check_whole(config.model, place, config.mesh.max_whole)
    if sequence and place.size(sequence) == 1:
        raise GPT2JaxError("training.sequence_sharding: True: has nothing to cut over: needs mesh.tensor above 1")
    return place


def abstract_state(config: Config, place: Partition) -> TrainState:
    """Shape, dtype and sharding of every leaf of the state, without memory."""
    params = parameters.abstract(config.model)
    state = jax.eval_shape(
        lambda params: TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params)), params
    )
    shardings = partition.like(state, params, place.params(), place.sharding())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )


def init_state(config: Config, place: Partition, params: Params | None = None) -> TrainState:
    """The state of step 0, each shard made on the device where it stays; the same numbers on any mesh.

    Args:
        params: to start from, on ``place``; by default fresh ones.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, place))
    if params is not None:  # Not through one function with the rest: it would copy them.
        step, opt_state = jax.jit(
            lambda params: (jnp.zeros((), jnp.int32), make_optimizer(config).init(params)),
            out_shardings=(shardings.step, shardings.opt_state),
        )(params)
        return TrainState(step, params, opt_state)

    def init(key: jax.Array) -> TrainState:
        params = parameters.init(key, config.model)
        return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params))

    return jax.jit(init, out_shardings=shardings)(jax.random.key(config.training.seed))


def make_train_step(config: Config, place: Partition) -> Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]:
    """The jitted step. Its state argument is donated: use only the one it returns.

    The step takes windows [A, B, T + 1] of integer tokens, A micro-batches of B sequences, and returns float32
    scalars: ``loss`` (nats per token, before the update), ``grad_norm`` (global, before clipping), ``learning_rate``.
    """
    optimizer, rate = make_optimizer(config), schedule(config)
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, place))
    chunk, dropout, seed = config.training.loss_chunk, config.model.dropout, config.training.seed

    def step(state: TrainState, windows_ABT1: jax.Array) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of_micro_batch(params: Params, index: jax.Array, window_BT1: jax.Array) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(step_key, index) if dropout else None
            return loss_sum(params, window_BT1, config.model, chunk=chunk, partition=place, dropout_key=key)

        gradient = jax.value_and_grad(loss_of_micro_batch, has_aux=True)
        micro_batches = windows_ABT1.shape[0]
        if micro_batches == 1:
            (total, count), grads = gradient(state.params, jnp.zeros((), jnp.int32), windows_ABT1[0])
        else:

            def accumulate(sums: Any, xs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
                (total, count), grads = gradient(state.params, *xs)
                return jax.tree.map(jnp.add, sums, (total, count, grads)), None

            zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
            (total, count, grads), _ = jax.lax.scan(accumulate, zeros, (jnp.arange(micro_batches), windows_ABT1))

        grads = jax.tree.map(lambda grad: grad / count, grads)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes floats and integer step counts.
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            learning_rate = jnp.asarray(rate(state.step), jnp.float32)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": total / count,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, place.sharding(None, "batch", None)),
        out_shardings=(state_shardings, place.sharding()),
    )


def lower_step(config: Config, place: Partition) -> tuple[TrainState, Any]:
    """The step on ``place`` before it is compiled, and the state that it takes, without memory for either."""
    state = abstract_state(config, place)
    parts = config.training.micro_batches
    shape = (parts, config.training.batch_size // parts, config.model.n_ctx + 1)
    windows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place.sharding(None, "batch", None))
    return state, make_train_step(config, place).lower(state, windows)  # type: ignore[attr-defined]


def make_eval_step(
    config: ModelConfig, place: Partition, chunk: int
) -> Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Jitted sum of losses in nats and number of tokens over windows [B, T + 1] with target weights [B, T]."""

    def evaluate(params: Params, window_BT1: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss_sum(params, window_BT1, config, chunk=chunk, weights_BT=weights_BT, partition=place)

    batch = place.sharding("batch", None)
    return jax.jit(evaluate, in_shardings=(place.params(), batch, batch), out_shardings=place.sharding())
