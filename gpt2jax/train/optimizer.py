"""The optimizer: AdamW, Muon or Lion behind gradient clipping, and the learning rate's course."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt2jax import lora, parameters
from gpt2jax.config import Config
from gpt2jax.parameters import Parameter
from gpt2jax.partition import Partition
from gpt2jax.train.freezing import frozen_rows

# Root mean square of Muon's updates, about that of AdamW's, so that one learning rate and weight decay suit both
# (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
MUON_RMS = 0.2
MUON_STEPS = 5
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def schedule_end(config: Config) -> int | None:
    """The step at which the learning rate has come to its end; None where it stays at its peak."""
    settings = config.optimizer
    if settings.schedule == "constant":
        return None
    return settings.decay_steps or max(config.training.steps, settings.warmup_steps + 1)


def schedule(config: Config) -> optax.Schedule:
    """Learning rate of each step (from 0): linear over ``warmup_steps``, then as ``optimizer.schedule`` says.

    The first step already learns, at 1/(warmup_steps + 1) of the peak (as in nanoGPT).
    """
    settings = config.optimizer
    peak, low, warmup = settings.learning_rate, settings.min_learning_rate, settings.warmup_steps
    end = schedule_end(config)
    rise, stay = optax.linear_schedule(peak / (warmup + 1), peak, warmup), optax.constant_schedule(peak)
    if end is None:
        return optax.join_schedules([rise, stay], [warmup])
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(peak / (warmup + 1), peak, warmup, end, low)
    fall = warmup if settings.schedule == "linear" else max(end - round(settings.decay_fraction * end), warmup)
    return optax.join_schedules([rise, stay, optax.linear_schedule(peak, low, end - fall)], [warmup, fall])


def make_optimizer(config: Config, place: Partition | None = None) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer; weight decay where the parameter table says so.

    Parameters that are frozen whole have no state in it and get updates of 0.

    Args:
        place: the mesh that updates are computed on.
    """
    settings, rate = config.optimizer, schedule(config)
    # By name, from the table: by rank, the stacked biases and layer norms would decay too.
    rows = lora.rows(config.lora) or parameters.TABLE
    decay = parameters.tree(lambda parameter: parameter.decay, rows)
    adamw = optax.adamw(
        rate, settings.beta1, settings.beta2, settings.epsilon, weight_decay=settings.weight_decay, mask=decay
    )
    kinds = {"adamw": adamw, "frozen": optax.set_to_zero()}
    if settings.name == "lion":
        kinds["lion"] = optax.lion(rate, settings.beta1, settings.beta2, weight_decay=settings.weight_decay, mask=decay)
    frozen = frozen_rows(config)

    def kind(parameter: Parameter) -> str:
        if parameter.path in frozen:
            return "frozen"
        return "adamw" if settings.name == "muon" and not parameter.inputs else settings.name

    labels = parameters.tree(kind, rows)
    if settings.name == "muon":
        kinds["muon"] = _muon(config, labels, place, rows)
    used = set(jax.tree.leaves(labels))
    # One kind alone is not wrapped: its state is that of runs from before there were others.
    optimizer = kinds[settings.name] if used == {settings.name} else optax.partition(kinds, labels)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer) if settings.clip_norm else optimizer


def _muon(
    config: Config, labels: Any, place: Partition | None, table: Sequence[Parameter]
) -> optax.GradientTransformation:
    """Muon for the leaves of that label, each matrix of a stacked kernel by itself.

    Each device orthogonalises whole layers of its own, where their number allows: left to the compiler, every device
    gathered all of them.
    """
    settings = config.optimizer
    masked = optax.MaskedNode()
    dimensions = jax.tree.map(
        lambda label, found: found if label == "muon" else masked, labels, parameters.tree(muon_dimensions, table)
    )
    rows = jax.tree.map(
        lambda label, row: row if label == "muon" else masked, labels, parameters.tree(lambda row: row, table)
    )

    def one(update: jax.Array, axes: optax.contrib.MuonDimensionNumbers, row: Parameter) -> jax.Array:
        path = place.by_layers(row.axes, update.shape[0]) if place else []
        for sharding in path:
            update = jax.lax.with_sharding_constraint(update, sharding)
        update = _orthogonalise(update, axes)
        for sharding in reversed(path):
            update = jax.lax.with_sharding_constraint(update, sharding)
        return update

    return optax.chain(
        # No iterations: the momentum alone, each matrix divided by its norm.
        optax.contrib.scale_by_muon(beta=settings.muon_momentum, ns_steps=0, weight_dimension_numbers=dimensions),
        optax.stateless(lambda updates, _: jax.tree.map(one, updates, dimensions, rows)),
        optax.add_decayed_weights(settings.weight_decay),  # All kernels decay.
        optax.scale_by_learning_rate(schedule(config)),
    )


def _orthogonalise(update: jax.Array, axes: optax.contrib.MuonDimensionNumbers) -> jax.Array:
    """The matrices in ``update``, of norm 1, with singular values brought near 1 (Newton-Schulz iterations of Jordan
    2024), and scaled to a root mean square of about ``MUON_RMS``."""
    sides = [math.prod(update.shape[axis] for axis in side) for side in axes]
    together = [axis for axis in range(update.ndim) if axis not in (*axes.reduction_axis, *axes.output_axis)]
    order = [*together, *axes.reduction_axis, *axes.output_axis]
    moved = update.transpose(order)
    x_NIO = moved.reshape(-1, *sides)
    wide = sides[0] <= sides[1]
    for _ in range(MUON_STEPS):  # By the smaller of X X^T and X^T X.
        gram = jnp.einsum("nio,njo->nij" if wide else "nio,nip->nop", x_NIO, x_NIO)
        gram = MUON_COEFFICIENTS[1] * gram + MUON_COEFFICIENTS[2] * gram @ gram
        x_NIO = MUON_COEFFICIENTS[0] * x_NIO + (gram @ x_NIO if wide else x_NIO @ gram)
    # A matrix whose singular values are all 1 has a root mean square of 1 over the root of its longer side.
    x_NIO = MUON_RMS * math.sqrt(max(sides)) * x_NIO
    return x_NIO.reshape(moved.shape).transpose([order.index(axis) for axis in range(update.ndim)])


def muon_dimensions(parameter: Parameter) -> Any:
    """Which axes of a stacked kernel are its matrices' rows (inputs) and columns (outputs).

    The others, layers and query, key and value, count the matrices: those three are orthogonalised each by itself,
    as Jordan (2024) found to be better.
    """
    inputs = tuple(range(1, 1 + parameter.inputs))
    outputs = tuple(axis for axis in range(1 + parameter.inputs, len(parameter.axes)) if parameter.axes[axis] != "qkv")
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


def at_step(opt_state: Any, step: jax.Array) -> Any:
    """``opt_state`` with the learning rate that belongs to ``step``: a skipped step leaves Optax's own count behind."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(
        lambda node: optax.ScaleByScheduleState(count=step) if is_schedule(node) else node,
        opt_state,
        is_leaf=is_schedule,
    )
