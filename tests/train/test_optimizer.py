"""The learning rate's course, clipping, and where weight decay applies."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt2jax import parameters
from gpt2jax.config import Config, OptimizerConfig, TrainingConfig
from gpt2jax.partition import Partition
from gpt2jax.train.optimizer import make_optimizer, schedule
from gpt2jax.train.step import abstract_state, make_train_step
from tests.helpers import TINY, by_path, place_on, relative_distance

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


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        ({"schedule": "linear"}, {0: 0.25, 3: 1.0, 13: 0.55, 23: 0.1, 99: 0.1}),
        ({"schedule": "constant"}, {0: 0.25, 3: 1.0, 13: 1.0, 23: 1.0, 99: 1.0}),
        # The last quarter of 24 steps: from step 18 on.
        ({"schedule": "wsd", "decay_fraction": 0.25, "decay_steps": 24}, {2: 0.75, 3: 1, 18: 1, 21: 0.55, 24: 0.1}),
        ({"schedule": "wsd", "decay_fraction": 0.0}, {0: 0.25, 3: 1.0, 22: 1.0, 23: 1.0}),
        # All of it: the warm-up comes first.
        ({"schedule": "wsd", "decay_fraction": 1.0}, {0: 0.25, 3: 1.0, 13: 0.55, 23: 0.1}),
        ({"schedule": "linear", "warmup_steps": 0}, {0: 1.0, 23: 0.1}),
        ({"schedule": "wsd", "warmup_steps": 0, "decay_steps": 20}, {0: 1.0, 16: 1.0, 18: 0.55, 20: 0.1}),
        ({"schedule": "constant", "warmup_steps": 0}, {0: 1.0, 50: 1.0}),
    ],
)
def test_each_schedule_at_its_knots(optimizer: dict[str, Any], wanted: dict[int, float]) -> None:
    given: dict[str, Any] = {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 3} | optimizer
    rate = schedule(settings(steps=23, **given))
    found = {step: float(rate(step)) for step in wanted}
    assert found == pytest.approx({step: 1e-2 * value for step, value in wanted.items()}, rel=1e-5)
    # The same of a traced step, as in the training step.
    traced = jax.jit(jax.vmap(rate))(jnp.arange(30))
    assert np.allclose(traced, [float(rate(step)) for step in range(30)], rtol=1e-6, atol=0)


def kernels_at_random(seed: int) -> Any:
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(seed).normal(size=leaf.shape), jnp.float32),
        parameters.abstract(TINY),
    )


def muon(**optimizer: Any) -> Any:
    given: dict[str, Any] = {"name": "muon", "learning_rate": 1e-2, "warmup_steps": 0} | optimizer
    return make_optimizer(settings(**given))


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """Five of Jordan's quintic Newton-Schulz iterations, written out."""
    x = matrix.astype(np.float64) / np.linalg.norm(matrix)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("path", [row.path for row in parameters.TABLE if row.inputs])
def test_muon_treats_each_matrix_of_a_stacked_kernel_by_itself(path: str) -> None:
    """The update of a layer, of its query kernel say, is that of this one matrix alone."""
    [row] = [row for row in parameters.TABLE if row.path == path]
    params, grads = kernels_at_random(0), kernels_at_random(1)
    optimizer = muon(clip_norm=0.0, weight_decay=0.0)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    update, grad = (np.asarray(parameters.at(tree, row)) for tree in (updates, grads))
    matrices = []
    for layer in range(TINY.n_layer):
        if path == "h/attn/c_attn/kernel":
            matrices += [(grad[layer, :, which], update[layer, :, which]) for which in range(3)]
        else:
            matrices.append((grad[layer], update[layer]))
    for one, found in matrices:
        rows = int(np.prod(one.shape[: row.inputs]))
        wanted = orthogonalised(one.reshape(rows, -1))
        # The root mean square of an update is about 0.2 times the rate, whatever the shape.
        wanted *= -1e-2 * 0.2 * np.sqrt(max(wanted.shape))
        assert relative_distance(found.reshape(rows, -1), wanted) < 1e-4
        assert np.sqrt(np.square(found).mean()) == pytest.approx(0.2e-2, rel=0.3)
    # Twin: all layers as one matrix, or another layer's gradient, make another update.
    stack = orthogonalised(grad.reshape(-1, grad.shape[-1]))
    stack *= -1e-2 * 0.2 * np.sqrt(max(stack.shape))
    assert relative_distance(update.reshape(stack.shape), stack) > 0.1
    assert relative_distance(matrices[0][1], matrices[1][1]) > 0.1


def test_muon_leaves_embeddings_norms_and_biases_to_adamw() -> None:
    params, grads = kernels_at_random(0), kernels_at_random(1)
    found: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for optimizer, updates in ((muon(), found), (make_optimizer(settings(learning_rate=1e-2, warmup_steps=0)), other)):
        state = optimizer.init(params)
        for _ in range(2):
            update, state = jax.jit(optimizer.update)(grads, state, params)
        updates.update(by_path(update))
    for row in parameters.TABLE:
        difference = relative_distance(found[row.path], other[row.path])
        assert (difference < 1e-6) == (row.path in ("wte", "wpe") or not row.path.endswith("kernel")), row.path


def test_muon_decays_kernels_and_embeddings_alone() -> None:
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), parameters.abstract(TINY))
    optimizer = muon(weight_decay=0.1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for path, update in by_path(updates).items():
        decays = path in ("wte", "wpe") or path.endswith("kernel")
        assert np.allclose(update, -1e-2 * 0.1 if decays else 0.0, rtol=1e-5, atol=0), path


def test_one_step_is_lions() -> None:
    config = settings(name="lion", learning_rate=1e-2, warmup_steps=0, beta1=0.9, beta2=0.99, clip_norm=0.0)
    params, grads = kernels_at_random(0), kernels_at_random(1)
    optimizer = make_optimizer(config)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    for path, update in by_path(updates).items():
        decay = 0.1 * by_path(params)[path] if path in ("wte", "wpe") or path.endswith("kernel") else 0.0
        assert np.allclose(update, -1e-2 * (np.sign(by_path(grads)[path]) + decay), rtol=1e-5, atol=1e-8), path
    kept = optax.tree_utils.tree_get(state, "mu")
    assert relative_distance(kept, jax.tree.map(lambda grad: 0.01 * grad, grads)) < 1e-5


def test_muon_orthogonalises_whole_layers_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step needs no more memory beside the state than AdamW's; the twin leaves the layers to the compiler."""
    place = place_on(2, 2, 2)
    model = dataclasses.replace(TINY, n_layer=8, n_embd=128)

    def temporaries(name: Any) -> int:
        config = Config(model=model, optimizer=OptimizerConfig(name=name), training=TrainingConfig(loss_chunk=16))
        windows = jax.ShapeDtypeStruct((1, 8, 33), jnp.int32, sharding=place.sharding(None, "batch", None))
        lowered: Any = make_train_step(config, place).lower(abstract_state(config, place), windows)
        return int(lowered.compile().memory_analysis().temp_size_in_bytes)

    with jax.numpy_dtype_promotion("strict"):
        limit, found = 1.1 * temporaries("adamw"), temporaries("muon")
        monkeypatch.setattr(Partition, "by_layers", lambda *_: [])
        assert found < limit < temporaries("muon")


@pytest.mark.parametrize(("layers", "cut"), [(8, 8), (12, 4), (6, 2), (3, 1)])
def test_layers_are_cut_over_as_many_devices_as_divide_them(layers: int, cut: int) -> None:
    place = place_on(2, 2, 2)
    axes = ("layers", "embed", "qkv", "heads", "head_dim")
    first, *_, last = place.by_layers(axes, layers)
    assert first == place.sharding(*axes)
    shape = (layers, 64, 3, 8, 8)
    assert last.shard_shape(shape) == (layers // cut, *shape[1:])
    # From one to the next a single mesh axis moves.
    path = [str(sharding.spec) for sharding in place.by_layers(axes, layers)]
    assert len(path) == 4
