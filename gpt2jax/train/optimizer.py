"""The optimizer: AdamW behind gradient clipping, with warm-up and cosine decay."""

import optax

from gpt2jax import parameters
from gpt2jax.config import Config


def schedule(config: Config) -> optax.Schedule:
    """Learning rate of each step (from 0): linear over ``warmup_steps``, then a cosine to the minimum.

    The first step already learns, at 1/(warmup_steps + 1) of the peak (as in nanoGPT).
    """
    settings = config.optimizer
    peak, warmup = settings.learning_rate, settings.warmup_steps
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / (warmup + 1),
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=settings.decay_steps or max(config.training.steps, warmup + 1),
        end_value=settings.min_learning_rate,
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; weight decay where the parameter table says so."""
    settings = config.optimizer
    adamw = optax.adamw(
        schedule(config),
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        # By name, from the table: by rank, the stacked biases and layer norms would decay too.
        mask=parameters.tree(lambda parameter: parameter.decay),
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw) if settings.clip_norm else adamw
