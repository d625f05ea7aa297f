"""The learning rate's course, clipping, and where weight decay applies."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt2jax import parameters
from gpt2jax.config import Config, OptimizerConfig, TrainingConfig
from gpt2jax.train.optimizer import make_optimizer, schedule
from tests.helpers import TINY, by_path, relative_distance

pytestmark = pytest.mark.usefixtures("standard_promotion")


def settings(steps: int = 100, **optimizer: Any) -> Config:
    return Config(model=TINY, optimizer=OptimizerConfig(**optimizer), training=TrainingConfig(steps=steps))


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    rate = schedule(settings(learning_rate=1e-3, min_learning_rate=1e-4, warmup_steps=9, decay_steps=109))
    for step in range(10):
        assert float(rate(step)) == pytest.approx(1e-3 * (step + 1) / 10, rel=1e-5)
    for step in (9, 34, 59, 84, 109):
        cosine = (1 + math.cos(math.pi * (step - 9) / 100)) / 2
        assert float(rate(step)) == pytest.approx(1e-4 + 9e-4 * cosine, rel=1e-5)
    assert float(rate(109)) == pytest.approx(1e-4, rel=1e-5)
    assert float(rate(10_000)) == pytest.approx(1e-4, rel=1e-5)


def test_the_cosine_ends_with_the_run_unless_told_otherwise() -> None:
    assert float(schedule(settings(steps=50, warmup_steps=5))(50)) == pytest.approx(6e-5, rel=1e-5)
    assert float(schedule(settings(steps=50, warmup_steps=5))(49)) > 6e-5
    assert float(schedule(settings(steps=50, warmup_steps=5, decay_steps=20))(20)) == pytest.approx(6e-5, rel=1e-5)


def test_a_run_without_warm_up_starts_at_the_peak() -> None:
    assert float(schedule(settings(warmup_steps=0))(0)) == pytest.approx(6e-4, rel=1e-5)


def test_a_run_shorter_than_its_warm_up_has_a_rate() -> None:
    rates = [float(schedule(settings(steps=5, warmup_steps=100))(step)) for step in range(5)]
    assert rates == pytest.approx([6e-4 * (step + 1) / 101 for step in range(5)], rel=1e-5)


def test_weight_decay_is_on_kernels_and_embeddings_alone() -> None:
    config = settings(learning_rate=1e-2, warmup_steps=0, weight_decay=0.1)
    # Ones everywhere: a parameter that is zero would not show its decay.
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), parameters.abstract(TINY))
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for path, update in by_path(updates).items():
        decays = path in ("wte", "wpe") or path.endswith("kernel")
        assert np.allclose(update, -1e-2 * 0.1 if decays else 0.0, rtol=1e-5, atol=0), path


@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
def test_gradients_are_clipped_by_their_global_norm_unless_clip_norm_is_0(clip_norm: float) -> None:
    params = parameters.init(jax.random.key(0), TINY)
    optimizer = make_optimizer(settings(clip_norm=clip_norm, beta1=0.5))
    for size in (100.0, 1e-3):
        grads = jax.tree.map(lambda leaf, size=size: jnp.full(leaf.shape, size), params)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        moment = optax.tree_utils.tree_get(state, "mu")
        norm = float(optax.tree.norm(grads))
        scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
        assert relative_distance(moment, jax.tree.map(lambda grad, s=scale: 0.5 * s * grad, grads)) < 1e-5


def test_one_step_is_adamws() -> None:
    config = settings(learning_rate=1e-2, warmup_steps=0, beta1=0.8, beta2=0.9, epsilon=1e-3, clip_norm=0.0)
    params = parameters.init(jax.random.key(0), TINY)
    grads = jax.tree.map(lambda leaf: 0.1 * leaf + 1e-3, params)
    optimizer = make_optimizer(config)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    for path, update in by_path(updates).items():
        grad, value = np.asarray(by_path(grads)[path], np.float64), np.asarray(by_path(params)[path], np.float64)
        decay = 0.1 * value if path in ("wte", "wpe") or path.endswith("kernel") else 0.0
        # After one step both moments, freed of their bias, are the gradient and its square.
        assert np.allclose(update, -1e-2 * (grad / (np.abs(grad) + 1e-3) + decay), rtol=1e-4, atol=1e-8), path
