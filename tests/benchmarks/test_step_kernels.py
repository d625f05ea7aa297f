"""The trial kernels of ``benchmarks/step_kernels.py``, interpreted, against what the step computes now."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import step_kernels
from benchmarks.gpu import SIZES
from gpt2jax import ops
from gpt2jax.config import Config, ModelConfig, TrainingConfig
from gpt2jax.train import objective
from gpt2jax.train.step import lower_step
from tests.helpers import RUNS_CACHE, place_on, relative_distance

CLOSE = 1e-5


def keys(count: int) -> list[jax.Array]:
    return list(jax.random.split(jax.random.key(0), count))


def gradients(function: Any, *args: jax.Array, grads: Any) -> Any:
    return jax.vjp(function, *args)[1](grads)


@pytest.mark.parametrize("width", [64, 48])
def test_the_norms_gradient_is_the_steps(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_kernels, "NORM_PROGRAMS", 3)  # Each takes turns, and the last rows are fewer.
    x, beside, grad = (3 * jax.random.normal(key, (2, 17, width)) + 1 for key in keys(3))
    scale, bias = (jax.random.normal(key, (width,)) for key in keys(2))

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x, ops.layer_norm(x, scale, bias, 1e-5)

    wanted = gradients(plain, x, scale, bias, grads=(beside, grad))
    found = gradients(lambda *args: step_kernels.beside_norm(*args, 1e-5), x, scale, bias, grads=(beside, grad))
    assert relative_distance(found, wanted) < CLOSE
    alone = gradients(plain, x, scale, bias, grads=(jnp.zeros_like(beside), grad))
    assert relative_distance(found, alone) > 0.1


def test_gelu_and_its_gradient_are_the_steps() -> None:
    x = jnp.linspace(-12.0, 12.0, 5001)
    assert relative_distance(step_kernels.quick_gelu(x), ops.gelu(x)) < CLOSE
    slope, wanted = (gradients(function, x, grads=jnp.ones_like(x)) for function in (step_kernels.quick_gelu, ops.gelu))
    assert relative_distance(slope, wanted) < CLOSE
    assert relative_distance(slope, gradients(jax.nn.relu, x, grads=jnp.ones_like(x))) > 0.01
    assert jnp.all(step_kernels.quick_gelu(jnp.array([-1e4, 0.0, 1e4])) == jnp.array([0.0, 0.0, 1e4]))


@pytest.mark.parametrize("chunk", [64, 128, 512])
def test_loss_and_errors_are_the_steps(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_kernels, "LOSS_CHUNK", chunk)
    logits = 4 * jax.random.normal(keys(1)[0], (2, 5, 320))
    targets = jax.random.randint(keys(2)[1], (2, 5), 0, 300)
    weights = jax.random.uniform(keys(3)[2], (2, 5))
    total, seen, normaliser = objective._losses(logits, targets, weights, 300, 2)
    wanted = total, objective._errors(seen, normaliser, targets, weights, 2)
    found = step_kernels.cross_entropy(logits, targets, weights, 300, jnp.float32)
    assert relative_distance(found, wanted) < CLOSE
    assert not jnp.any(found[1][..., 300:])
    assert relative_distance(step_kernels.cross_entropy(logits, targets, weights, 320, jnp.float32), wanted) > 1e-3


def test_each_part_is_in_the_step_that_it_is_put_into() -> None:
    model = ModelConfig(**SIZES["toy"], compute_dtype="bfloat16")
    config = Config(model=model, training=TrainingConfig(batch_size=2))

    def program(*parts: str) -> str:
        with step_kernels.in_place(*parts):
            text: str = lower_step(config, place_on(1, 1, 1))[1].as_text()
        return text

    programs = {program(), *map(program, step_kernels.PARTS), program(*step_kernels.PARTS)}
    assert len(programs) == 2 + len(step_kernels.PARTS)
    assert program() in programs  # The same step is the same text.


def test_the_trial_runs_at_toy_size() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_step_trial", "--size", "toy", "--micro", "2", "--steps", "1"]
    command += ["--norms", "2,4,3", "4,4,3", "--losses", "64,4"]
    root, given = Path(__file__).parents[2], os.environ | RUNS_CACHE
    done = subprocess.run(command, cwd=root, env=given, check=True, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["part"] for one in found] == ["kernel"] * 3 + ["step trial"] * 6
    assert set(found[3]["apart"]) == {"gelu", "norm", "loss", "gelu+norm+loss"}
    assert 0 < max(found[3]["apart"].values()) < 0.03  # Other programs, near enough.
