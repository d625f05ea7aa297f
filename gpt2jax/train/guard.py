"""Steps whose numbers are wrong are skipped: a loss or gradient that is not finite, or, if asked for, a spike."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax.config import TrainingConfig
from gpt2jax.errors import GPT2JaxError

# Of the running mean and variance: about the last 50 steps. None is called a spike before as many were seen.
DECAY = 0.98
LEAST_SEEN = 50
WATCHED = ("loss", "grad_norm")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """What the guard knows of the steps so far; a part of the state, so that a resumed run skips the same ones."""

    skipped: jax.Array
    """int32: steps skipped in all."""
    in_a_row: jax.Array
    """int32: of them, how many just now, one after the other."""
    seen: jax.Array
    """int32: steps that mean and variance are of."""
    mean: dict[str, jax.Array]
    """Running means of loss and gradient norm (float32), over steps that were not skipped."""
    variance: dict[str, jax.Array]

    @classmethod
    def fresh(cls) -> "Guard":
        def zero(dtype: Any) -> jax.Array:
            return jnp.zeros((), dtype)

        numbers = [{name: zero(jnp.float32) for name in WATCHED} for _ in range(2)]
        return cls(zero(jnp.int32), zero(jnp.int32), zero(jnp.int32), *numbers)


def judge(guard: Guard, watched: dict[str, jax.Array], training: TrainingConfig) -> tuple[jax.Array, jax.Array]:
    """Whether to skip the step with these numbers, and how many standard deviations (float32) the one that
    ``training.spike_on`` names lies above its mean: 0 until enough steps were seen."""
    name = training.spike_on
    known = guard.seen >= LEAST_SEEN
    deviation = jnp.sqrt(guard.variance[name]) + 1e-8 * jnp.abs(guard.mean[name])
    z = jnp.where(known, (watched[name] - guard.mean[name]) / deviation, 0.0)
    skip = ~(jnp.isfinite(watched["loss"]) & jnp.isfinite(watched["grad_norm"]))
    if training.spike_z:
        skip |= z > training.spike_z
    return skip, z


def note(guard: Guard, skip: jax.Array, watched: dict[str, jax.Array]) -> Guard:
    """The guard after a step: skipped ones are counted, the others move mean and variance."""
    # While there are few steps, their plain mean; from 1 / (1 - DECAY) of them on, an exponentially weighted one.
    weight = jnp.maximum(1 - DECAY, 1 / (guard.seen.astype(jnp.float32) + 1))
    mean, variance = {}, {}
    for name, value in watched.items():
        change = value - guard.mean[name]
        mean[name] = jnp.where(skip, guard.mean[name], guard.mean[name] + weight * change)
        moved = (1 - weight) * (guard.variance[name] + weight * change * change)
        variance[name] = jnp.where(skip, guard.variance[name], moved)
    one = skip.astype(jnp.int32)
    return Guard(guard.skipped + one, (guard.in_a_row + one) * one, guard.seen + 1 - one, mean, variance)


def unless(skip: jax.Array, new: Any, old: Any) -> Any:
    """``new``, or ``old`` where the step is skipped."""
    return jax.tree.map(lambda after, before: jnp.where(skip, before, after), new, old)


def stop_if_skipping(row: dict[str, float], limit: int, latest: int | None) -> None:
    """End a run that skips one step after the other.

    Args:
        row: the metrics of a step.
        limit: ``training.max_skipped``.
        latest: step of the newest checkpoint, if there is one.

    Raises:
        GPT2JaxError: as many in a row were skipped.
    """
    if row["skipped_in_a_row"] < limit:
        return
    spike = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
    advice = "a larger training.spike_z" if spike else "--debug-nans"
    z = f" ({row['spike_z']:.1f} standard deviations above the mean)" if spike else ""
    raise GPT2JaxError(
        f"step {row['step']:.0f}: the last {row['skipped_in_a_row']:.0f} steps were skipped, loss is {row['loss']:.4g}"
        f" and gradient norm {row['grad_norm']:.4g}{z}; try {advice}, or a lower optimizer.learning_rate;"
        f" {_way_back(latest)}"
    )


def stop_if_lost(row: dict[str, float], latest: int | None) -> None:
    """End a run before parameters that are of no use reach a checkpoint.

    Args:
        row: of a validation.
        latest: step of the newest checkpoint, if there is one.

    Raises:
        GPT2JaxError: the validation loss is not finite.
    """
    loss = row["validation_loss"]
    if not math.isfinite(loss):
        raise GPT2JaxError(
            f"step {row['step']}: validation_loss is {loss}, try a lower optimizer.learning_rate; {_way_back(latest)}"
        )


def _way_back(latest: int | None) -> str:
    return f"the last checkpoint is of step {latest}" if latest else "there is no checkpoint yet"
