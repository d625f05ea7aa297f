"""How parameters follow gradients."""

from typing import Literal

import pydantic

from gpt2jax.fields import Count, CountOrZero, NotNegative, Positive, Probability, Rate, settings


@settings("optimizer")
class OptimizerConfig:
    """The optimizer, and the course of its learning rate."""

    name: Literal["adamw", "muon", "lion"] = "adamw"
    """muon: Muon on the kernels of the blocks, AdamW on embeddings, biases and layer norms, at one rate for both
    (Jordan 2024; Liu et al. 2025). lion (Chen et al. 2023) has half of AdamW's state; it wants beta2 0.99, a third to
    a tenth of AdamW's learning rate, and as many times its weight decay."""
    learning_rate: NotNegative = 6e-4
    """Peak, reached at the end of the warm-up."""
    min_learning_rate: NotNegative = 6e-5
    """Where the schedule ends; constant does not look at it."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: down in a cosine or a line; constant: at the peak; wsd (warm-up, stable, decay): at the peak,
    and down in a line at the end."""
    warmup_steps: CountOrZero = 100
    """Steps of linear warm-up."""
    decay_steps: Count | None = None
    """Step at which the schedule ends, warm-up included; by default training.steps."""
    decay_fraction: Probability = 0.2
    """Of wsd: share of decay_steps that the line down takes; 0 has none."""
    beta1: Rate = 0.9
    """Decay of the mean of gradients."""
    beta2: Rate = 0.95
    """Decay of the mean of their squares; of lion: of the mean of gradients that is kept."""
    epsilon: Positive = 1e-8
    """Added to AdamW's divisor; lion has none."""
    muon_momentum: Rate = 0.95
    """Muon's decay of the mean of gradients."""
    weight_decay: NotNegative = 0.1
    """On matrices and embeddings only, never on biases and layer norms; times the learning rate."""
    clip_norm: NotNegative = 1.0
    """Largest global norm of the gradient; 0 does not clip."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        if self.min_learning_rate > self.learning_rate and self.schedule != "constant":
            raise ValueError(
                f"min_learning_rate: {self.min_learning_rate}: should be at most"
                f" optimizer.learning_rate ({self.learning_rate})"
            )
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps: {self.decay_steps}: should be above optimizer.warmup_steps ({self.warmup_steps})"
            )
        return self
