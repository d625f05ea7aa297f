"""The training step as it is and with the parts of step_kernels.py, each alone and all at once: the kernels by
themselves in some sizes, of which the fastest go into the steps; then losses and gradients' norms compared, and the
steps in turn. Prints lines of JSON, as gpu.py does; for a CPU, which interprets the kernels, there is a toy size.

python -m benchmarks.gpu_step_trial --size gpt2-medium --layers 12 --micro 16
python -m benchmarks.gpu_step_trial --size toy --micro 2 --steps 1 --norms 2,4,3 --losses 64,4
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_kernels
from benchmarks.gpu import ROUNDS, SIZES, each, integers, refuse, relative, say
from benchmarks.turns import spread
from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.train.step import init_state, lower_step

Sizes = tuple[int, ...]
# Of step_kernels.py: NORM_ROWS, NORM_WARPS and NORM_PROGRAMS; LOSS_CHUNK and LOSS_WARPS.
NAMES = {"norm": ("NORM_ROWS", "NORM_WARPS", "NORM_PROGRAMS"), "loss": ("LOSS_CHUNK", "LOSS_WARPS")}
NORMS: list[Sizes] = [(4, 8, 264), (4, 8, 528), (2, 4, 528), (2, 8, 528), (1, 4, 1056), (4, 4, 528), (8, 8, 264)]
LOSSES: list[Sizes] = [(4096, 8), (4096, 16), (2048, 8), (2048, 4), (8192, 16), (1024, 4)]
STEPS: list[Sequence[str]] = [(), ("gelu",), ("norm",), ("loss",), ("gelu", "norm", "loss")]


def fastest(kind: str, sizes: Sequence[Sizes], call: Callable[..., Any], args: Sequence[jax.Array]) -> dict[str, int]:
    """Which of ``sizes`` the kernel takes the least time with."""
    settings = [dict(zip(NAMES[kind], some, strict=True)) for some in sizes]
    lowered = []
    for one in settings:
        with mock.patch.multiple(step_kernels, **one):  # type: ignore[call-overload]
            lowered.append(jax.jit(lambda *args: call(*args)).lower(*args))
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda one: one.compile(), lowered))
    seconds = [each(lambda program=program: program(*args)) for program in programs]  # type: ignore[misc]
    for one, found in zip(settings, seconds, strict=True):
        say(part="kernel", kind=kind, sizes=one, seconds=found)
    return settings[int(np.argmin(seconds))]


def kernels(model: ModelConfig, rows: int, given: argparse.Namespace) -> dict[str, int]:
    """The sizes of both kernels that are fastest for states of ``rows`` sequences."""
    dtype = jnp.dtype(model.compute_dtype)
    x, beside, grad = (
        jax.random.normal(jax.random.key(one), (rows, model.n_ctx, model.n_embd), dtype) for one in range(3)
    )

    def norm(x: jax.Array, scale: jax.Array, *grads: jax.Array) -> Any:
        _, pull = jax.vjp(lambda x, scale: step_kernels.beside_norm(x, scale, scale, 1e-5), x, scale)
        return pull(grads)

    chunk = min(TrainingConfig().loss_chunk, model.n_ctx)
    logits = 3 * jax.random.normal(jax.random.key(3), (rows, chunk, -(-model.n_vocab // 128) * 128))
    targets = jax.random.randint(jax.random.key(4), (rows, chunk), 0, model.n_vocab)

    def loss(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Any:
        return step_kernels.cross_entropy(logits, targets, weights, model.n_vocab, dtype)

    found = fastest("norm", given.norms, norm, (x, jnp.ones(model.n_embd), beside, grad))
    return found | fastest("loss", given.losses, loss, (logits, targets, jnp.ones(targets.shape)))


def trial(given: argparse.Namespace) -> None:
    model = ModelConfig(**SIZES[given.size], compute_dtype="bfloat16")
    model = dataclasses.replace(model, n_layer=given.layers or model.n_layer, scan_unroll=given.layers or model.n_layer)
    optimizer = OptimizerConfig(learning_rate=6e-4, schedule="constant", warmup_steps=0)
    config = Config(model=model, optimizer=optimizer, training=TrainingConfig(batch_size=given.micro))
    place = Partition(make_mesh(MeshConfig()))
    lowered = []
    with mock.patch.multiple(step_kernels, **kernels(model, given.micro, given)):  # type: ignore[call-overload]
        for parts in STEPS:
            with step_kernels.in_place(*parts):
                lowered.append(lower_step(config, place)[1])
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda one: one.compile(), lowered))
    shape = (1, given.micro, model.n_ctx + 1)
    windows = jnp.asarray(np.random.default_rng(0).integers(model.n_vocab, size=shape, dtype=np.int32))
    looks = []
    for program in programs:
        state, metrics = program(init_state(config, place), windows)
        looks.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    names = ["+".join(parts) or "as it is" for parts in STEPS]
    # Loss and norm each by itself: together, the larger would hide the other.
    apart = {name: max(map(relative, look, looks[0])) for name, look in zip(names[1:], looks[1:], strict=True)}
    say(part="step trial", size=given.size, layers=model.n_layer, apart=apart)
    refuse(apart)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn, (name, program) in itertools.product(range(1 + ROUNDS), zip(names, programs, strict=True)):
        start = time.perf_counter()
        for _ in range(given.steps):
            state, metrics = program(state, windows)
        jax.block_until_ready(metrics)
        if turn:
            times[name].append((time.perf_counter() - start) / given.steps)
    for name, found in times.items():
        say(part="step trial", size=given.size, layers=model.n_layer, by=name, seconds=spread(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpt2-medium")
    parser.add_argument("--layers", type=int, help="fewer than the size has, which compile sooner")
    parser.add_argument("--micro", type=int, default=16, help="sequences a step")
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    parser.add_argument("--norms", nargs="+", type=integers, default=NORMS, help="rows,warps,programs of the norm")
    parser.add_argument("--losses", nargs="+", type=integers, default=LOSSES, help="chunk,warps of the loss")
    trial(parser.parse_args())


if __name__ == "__main__":
    main()
