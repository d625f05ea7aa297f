"""The training step: one jitted, donated function from state and batch to state and metrics."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt2jax import digest, lora, model, parameters, partition
from gpt2jax.attention import goes_by_heads, training_kernel
from gpt2jax.config import Config, LoraConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, Rules, check_whole, make_mesh, one_device
from gpt2jax.train import freezing, guard
from gpt2jax.train.guard import Guard
from gpt2jax.train.objective import loss_sum, tokens_and_weights
from gpt2jax.train.optimizer import at_step, make_optimizer, schedule

Metrics = dict[str, jax.Array]

# Without it the CPU's compiler copies both moments of every parameter in every step, for fear that the update of one
# array overwrites what that of another still reads.
CPU_OPTIONS: dict[str, Any] = {"xla_cpu_copy_insertion_use_region_analysis": True}
# Parameters. Of larger models a program without a loop copies many kernels, and takes long to compile: gpt2-xl's on two
# cores 49 s and not 5.
SMALL_MODEL = 2**25
# YNNPACK for sums and not for products, which Eigen does in less time where there are many rows.
FLOAT32_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options(config: ModelConfig, place: Partition) -> dict[str, Any] | None:
    """What the step is compiled with: on a CPU, what was found to help there (benchmarks/log.md)."""
    if place.mesh.devices.flat[0].platform != "cpu":
        return None
    # On a mesh the product with the token table keeps an order in which Eigen is slow (objective.py).
    eigen = one_device(place) and model.compute_dtype(config) == jnp.float32
    return CPU_OPTIONS | (FLOAT32_OPTIONS if eigen else {})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes from step to step; with the settings, all that a resumed run needs."""

    step: jax.Array
    """int32: steps done. Batch, dropout and learning rate of the next step are functions of it."""
    params: Params
    """The table's tree, and under ``lora`` the adapters, if there are any: then they alone change."""
    opt_state: Any
    guard: Guard


def _beside(config: Config, params: Params) -> tuple[jax.Array, Any, Guard]:
    """What the state of step 0 holds beside parameters: step, optimizer's state and guard."""
    return jnp.zeros((), jnp.int32), make_optimizer(config).init(lora.split(params)[0]), Guard.fresh()


def _fresh(config: Config, params: Params) -> TrainState:
    step, opt_state, fresh = _beside(config, params)
    return TrainState(step, params, opt_state, fresh)


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
    params = parameters.abstract(config.model) | lora.abstract(config.lora, config.model)
    state = jax.eval_shape(lambda params: _fresh(config, params), params)
    places = place.params() | lora.shardings(config.lora, place)
    shardings = partition.like(state, params, places, place.sharding())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )


def init_state(config: Config, place: Partition, params: Params | None = None) -> TrainState:
    """The state of step 0, each shard made on the device where it stays; the same numbers on any mesh.

    Args:
        params: to start from, on ``place``, the table's; by default fresh ones. Adapters are always fresh.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, place))
    if params is not None:  # Not through one function with the rest: it would copy them.
        make = jax.jit(_adapters, static_argnames="config", out_shardings=lora.shardings(config.lora, place))
        params = params | make(config=config)
        out_shardings = (shardings.step, shardings.opt_state, shardings.guard)
        step, opt_state, fresh = jax.jit(lambda params: _beside(config, params), out_shardings=out_shardings)(params)
        return TrainState(step, params, opt_state, fresh)

    def init(key: jax.Array) -> TrainState:
        return _fresh(config, parameters.init(key, config.model) | _adapters(config))

    return jax.jit(init, out_shardings=shardings)(jax.random.key(config.training.seed))


def _adapters(config: Config) -> Params:
    key = jax.random.fold_in(jax.random.key(config.training.seed), zlib.crc32(b"lora"))
    return lora.init(key, config.lora, config.model)


def make_gradient(
    config: Config, place: Partition
) -> Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, Params]]:
    """The loss (nats per token) of a step's windows and its gradient, of parameters and step.

    Windows are [A, B, T + 1], or [A, B, 2, T + 1] with what of them teaches. The gradient is by what is learned alone:
    where there are adapters, by them (:func:`gpt2jax.lora.split`).
    """
    chunk, dropout, seed = config.training.loss_chunk, config.model.dropout, config.training.seed
    model_config = unrolled(config, place)

    def gradient(params: Params, step: jax.Array, windows_ABT1: jax.Array) -> tuple[jax.Array, Params]:
        step_key = jax.random.fold_in(jax.random.key(seed), step)
        learned, held = lora.split(params)

        def loss_of_micro_batch(learned: Params, index: jax.Array, window: jax.Array) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(step_key, index) if dropout else None
            window_BT1, weights_BT = tokens_and_weights(window)
            return loss_sum(
                lora.scaled(held | learned, config.lora),
                window_BT1,
                model_config,
                chunk=chunk,
                weights_BT=weights_BT,
                partition=place,
                dropout_key=key,
                document_start=document_start(config),
            )

        of_one = jax.value_and_grad(loss_of_micro_batch, has_aux=True)
        micro_batches = windows_ABT1.shape[0]
        if micro_batches == 1:
            (total, count), grads = of_one(learned, jnp.zeros((), jnp.int32), windows_ABT1[0])
        else:

            def accumulate(sums: Any, xs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
                (total, count), grads = of_one(learned, *xs)
                return jax.tree.map(jnp.add, sums, (total, count, grads)), None

            zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, learned))
            (total, count, grads), _ = jax.lax.scan(accumulate, zeros, (jnp.arange(micro_batches), windows_ABT1))
        return total / count, jax.tree.map(lambda grad: grad / count, grads)

    return gradient


def unrolled(config: Config, place: Partition) -> ModelConfig:
    """The model with the blocks per turn that training takes where ``scan_unroll`` leaves them open.

    A loop copies what the backward pass reads into arrays of all layers and back out of them. On a GPU these copies
    take a fifth of the step, and the longer compilation is small beside a training run (benchmarks/log_gpu.md), unless
    it has our own attention to compile in every block. Where devices share the parameters, the loop keeps them from
    being put together all at once. On one CPU they take a fifth of a small model's step (``SMALL_MODEL``;
    benchmarks/log.md); where attention goes by heads or there is ``remat``, only the loop keeps what is to be computed
    again from being kept instead, and micro-batches are for who wants little memory.
    """
    model = config.model
    if model.scan_unroll:
        return model
    kernel, _ = training_kernel(model, place, config.data.document_mask)
    whole_on_gpus = kernel == "cudnn" and place.size(("fsdp", "tensor")) == 1
    platform, training = place.mesh.devices.flat[0].platform, config.training
    keeps_all = model.remat == "none" and kernel == "xla" and training.micro_batches == 1
    keeps_all = keeps_all and not goes_by_heads(model, training.batch_size, model.n_ctx, platform)
    small_on_cpu = platform == "cpu" and one_device(place) and keeps_all and parameters.count(model) <= SMALL_MODEL
    return dataclasses.replace(model, scan_unroll=model.n_layer if whole_on_gpus or small_on_cpu else 1)


def document_start(config: Config) -> int | None:
    """The token with which a document begins, where attention is confined to documents (``data.document_mask``): the
    last one of the vocabulary, as of each that has ``<|endoftext|>``."""
    return config.model.n_vocab - 1 if config.data.document_mask else None


def make_train_step(config: Config, place: Partition) -> jax.stages.Wrapped:
    """The jitted step. Its state argument is donated: use only the one it returns.

    The step takes windows [A, B, T + 1] of integer tokens, A micro-batches of B sequences (or [A, B, 2, T + 1], as
    :class:`gpt2jax.data.documents.DocumentWindows` makes them), and returns float32 scalars: ``loss`` (nats per token,
    before the update), ``grad_norm`` (global, before clipping), ``learning_rate``; ``skipped``: 1 when the step was
    skipped, ``skipped_in_a_row`` and ``skipped_in_all``. A skipped step leaves parameters and the optimizer's state as
    they were, and counts as a step. With ``training.spike_z``: ``spike_z``, as :func:`guard.judge` finds it. With
    ``training.log_norms``: the norms of gradient (before clipping) and update, as ``grad_norm/PATH`` and
    ``update_norm/PATH`` for each leaf that is learned.
    """
    optimizer, rate, training = make_optimizer(config, place), schedule(config), config.training
    gradient = make_gradient(config, place)
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, place))

    def step(state: TrainState, windows_ABT1: jax.Array) -> tuple[TrainState, Metrics]:
        learned, held = lora.split(state.params)
        loss, grads = gradient(state.params, state.step, windows_ABT1)
        grads = freezing.only_trained(config, grads)
        watched = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        skip, z = guard.judge(state.guard, watched, training)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes floats and integer step counts.
            updates, opt_state = optimizer.update(grads, at_step(state.opt_state, state.step), learned)
            learning_rate = jnp.asarray(rate(state.step), jnp.float32)
        params = freezing.keep(config, learned, optax.apply_updates(learned, updates))
        after = guard.note(state.guard, skip, watched)
        metrics = watched | {
            "learning_rate": learning_rate,
            "skipped": skip.astype(jnp.float32),
            "skipped_in_a_row": after.in_a_row.astype(jnp.float32),
            "skipped_in_all": after.skipped.astype(jnp.float32),
        }
        if training.spike_z:
            metrics["spike_z"] = z
        if training.log_norms:
            done = guard.unless(skip, updates, jax.tree.map(jnp.zeros_like, updates))
            metrics |= norms("grad_norm", grads) | norms("update_norm", freezing.only_trained(config, done))
        params = held | guard.unless(skip, params, learned)
        opt_state = guard.unless(skip, opt_state, state.opt_state)
        return TrainState(state.step + 1, params, opt_state, after), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, place.sharding(None, "batch", None)),
        out_shardings=(state_shardings, place.sharding()),
        compiler_options=compiler_options(config.model, place),
    )


def lower_step(config: Config, place: Partition) -> tuple[TrainState, Any]:
    """The step on ``place`` before it is compiled, and the state that it takes, without memory for either."""
    state = abstract_state(config, place)
    parts = config.training.micro_batches
    shape = (parts, config.training.batch_size // parts, config.model.n_ctx + 1)
    windows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place.sharding(None, "batch", None))
    return state, make_train_step(config, place).lower(state, windows)


def norms(name: str, tree: Params) -> Metrics:
    """The norm of each leaf of a tree in the layout of the parameters."""
    return {f"{name}/{path}": optax.tree.norm(leaf) for path, leaf in digest.paths(tree).items()}


def make_eval_step(
    config: ModelConfig,
    place: Partition,
    chunk: int,
    adapters: LoraConfig | None = None,
    document_start: int | None = None,
) -> Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Jitted sum of losses in nats and number of tokens over windows [B, T + 1] with target weights [B, T]."""
    adapters = adapters or LoraConfig()

    def evaluate(params: Params, window_BT1: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = lora.scaled(params, adapters)
        return loss_sum(
            params,
            window_BT1,
            config,
            chunk=chunk,
            weights_BT=weights_BT,
            partition=place,
            document_start=document_start,
        )

    batch, params = place.sharding("batch", None), place.params() | lora.shardings(adapters, place)
    return jax.jit(evaluate, in_shardings=(params, batch, batch), out_shardings=place.sharding())
