"""What `python -m benchmarks growth` measures: the axes, how steep each should be, and the work at each size."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from gpt2jax import parameters
from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from gpt2jax.data.pipeline import batches, open_split
from gpt2jax.data.shards import ShardWriter
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.train.step import init_state, make_train_step
from gpt2jax.weights.convert import convert
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import HeldWeights, Origin

Size = Literal["full", "toy"]
Held = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Point:
    """The work at one size."""

    size: int
    work: Callable[[Any], object]
    """What is timed, of what ``before`` gives; done when it returns."""
    before: Callable[[], Any] = lambda: None
    """What each repetition needs anew, not timed."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One size that grows while all others are held."""

    title: str
    unit: str
    sizes: dict[Size, tuple[int, ...]]
    held: dict[Size, Held]
    least: float
    """The slope where time is what does not grow with this size."""
    most: float
    """The slope that it should not be above."""
    reason: str
    points: Callable[[Sequence[int], Held, Path], list[Point]]


def _train(key: str, sizes: Sequence[int], held: Held, _: Path) -> list[Point]:
    return [_training_step(size, held | {key: size}) for size in sizes]


def _training_step(size: int, sizes: Held) -> Point:
    """Steps on random windows; the state is kept from one to the next, as in training."""
    model = ModelConfig(
        n_vocab=sizes["n_vocab"],
        n_ctx=sizes["n_ctx"],
        n_embd=sizes["n_embd"],
        n_head=sizes["n_embd"] // sizes["head"],
        n_layer=sizes["n_layer"],
    )
    config = Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=0),
        training=TrainingConfig(batch_size=sizes["batch"]),
    )
    place = Partition(make_mesh(MeshConfig()))
    held, step = [init_state(config, place)], make_train_step(config, place)
    shape = (1, sizes["batch"], model.n_ctx + 1)
    windows = np.random.default_rng(0).integers(model.n_vocab, size=shape, dtype=np.int32)

    def work(_: None) -> None:
        held[0], metrics = step(held[0], jax.device_put(windows))
        jax.block_until_ready((held[0], metrics))

    return Point(size, work)


def _sample(key: str, sizes: Sequence[int], held: Held, _: Path) -> list[Point]:
    """Greedy texts after random prompts, from reading these to the last token."""
    config, params = _sampler(held)

    def point(size: int) -> Point:
        of = held | {key: size}
        prompts = np.random.default_rng(0).integers(config.n_vocab, size=(of["batch"], of["prompt"])).tolist()
        sampling = SamplingConfig(do_sample=False, max_new_tokens=of["new"])
        requests = [Request(tuple(prompt), sampling) for prompt in prompts]
        return Point(size, lambda _: Batch(params, requests, config).run())

    return [point(size) for size in sizes]


def _sample_cache(sizes: Sequence[int], held: Held, _: Path) -> list[Point]:
    """The same number of tokens in caches of other lengths; the prompt, which fills the rest, is read before."""
    config, params = _sampler(held)
    sampling = SamplingConfig(do_sample=False, max_new_tokens=held["new"])

    def point(size: int) -> Point:
        prompt = np.random.default_rng(0).integers(config.n_vocab, size=size - held["new"]).tolist()
        requests = [Request(tuple(prompt), sampling)] * held["batch"]

        def before() -> Batch:
            batch = Batch(params, requests, config)
            jax.block_until_ready(batch._state)
            return batch

        return Point(size, Batch.run, before)

    return [point(size) for size in sizes]


def _sampler(held: Held) -> tuple[ModelConfig, parameters.Params]:
    names = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    config = ModelConfig(**{name: held[name] for name in names})  # type: ignore[arg-type]

    def make(key: jax.Array) -> parameters.Params:
        return decoding_params(parameters.init(key, config), config)

    return config, jax.jit(make)(jax.random.key(0))


def _convert(sizes: Sequence[int], held: Held, folder: Path) -> list[Point]:
    """From OpenAI's form to Hugging Face's; sizes are widths, and those of the points numbers of parameters.

    Of no known vocabulary: GPT-2's files are the same at any size, and making them takes longer than the weights of all
    but the largest.
    """

    def point(width: int) -> Point:
        config = ModelConfig(
            n_vocab=held["n_vocab"],
            n_ctx=held["n_ctx"],
            n_embd=width,
            n_head=width // held["head"],
            n_layer=max(2, width // 64),  # Deeper with width, as the released models are.
        )
        params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
        source, target = folder / f"{width}", folder / f"{width}-target"
        convert(HeldWeights(Origin("random", "random", config, None), params), source, "openai", progress=False)

        def work(_: None) -> None:
            convert(open_weights(source), target, "huggingface", progress=False)

        return Point(parameters.count(config), work, lambda: shutil.rmtree(target, ignore_errors=True))

    return [point(size) for size in sizes]


def _read(sizes: Sequence[int], held: Held, folder: Path) -> list[Point]:
    """Batches in the order of training out of the same tokens, cut into more and more shards in the page cache."""
    tokens = np.random.default_rng(0).integers(held["n_vocab"], size=held["tokens"], dtype=np.uint16)

    def point(shards: int) -> Point:
        cut = folder / str(shards)
        cut.mkdir()
        with ShardWriter(cut, "data", "train", "llmc", held["n_vocab"], math.ceil(tokens.size / shards)) as writer:
            writer.write(tokens)
        windows, _, _ = open_split(cut, "train", held["n_ctx"], held["n_vocab"], "gpt2")
        rows = batches(windows, seed=0, batch_size=held["batch"], start_step=0, shard_index=0, shard_count=1)

        def work(_: None) -> list[np.ndarray]:
            return [next(rows) for _ in range(held["batches"])]

        return Point(shards, work)

    return [point(size) for size in sizes]


# "head" is the width of one.
STEP: dict[Size, Held] = {
    "full": {"n_layer": 2, "n_embd": 128, "head": 64, "n_ctx": 64, "batch": 4, "n_vocab": 256},
    "toy": {"n_layer": 1, "n_embd": 32, "head": 16, "n_ctx": 16, "batch": 2, "n_vocab": 64},
}
TEXT: dict[Size, Held] = {
    "full": {"n_layer": 4, "n_embd": 128, "n_head": 2, "n_ctx": 1024, "n_vocab": 50257},
    "toy": {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_ctx": 256, "n_vocab": 64},
}


def _of(base: dict[Size, Held], more: dict[str, int]) -> dict[Size, Held]:
    return {size: held | more for size, held in base.items()}


AXES = {
    "depth": Axis(
        "training step against depth",
        "blocks",
        {"full": (1, 2, 4, 8, 16, 32, 64), "toy": (1, 2)},
        STEP,
        0,
        1,
        "a block's work each; embedding and loss are the same at any depth",
        functools.partial(_train, "n_layer"),
    ),
    "width": Axis(
        "training step against width",
        "numbers",
        {"full": (64, 128, 256, 512, 1024), "toy": (16, 32)},
        STEP,
        1,
        2,
        "products with parameters and the optimizer grow with its square, all else with the width",
        functools.partial(_train, "n_embd"),
    ),
    "context": Axis(
        "training step against context",
        "tokens",
        {"full": (64, 128, 256, 512, 1024), "toy": (16, 32)},
        STEP,
        0,
        2,
        "attention grows with its square, the optimizer not at all, all else with the context",
        functools.partial(_train, "n_ctx"),
    ),
    "batch": Axis(
        "training step against batch",
        "sequences",
        {"full": (1, 2, 4, 8, 16, 32), "toy": (1, 2)},
        STEP,
        0,
        1,
        "each sequence's work is its own; the optimizer's is done once",
        functools.partial(_train, "batch"),
    ),
    "sample_batch": Axis(
        "sampling against batch",
        "texts",
        {"full": (1, 2, 4, 8, 16, 32, 64), "toy": (1, 2)},
        _of(TEXT, {"prompt": 32, "new": 32}),
        0,
        1,
        "the weights are read once for all texts, each text's logits and cache are its own",
        functools.partial(_sample, "batch"),
    ),
    "sample_length": Axis(
        "sampling against length",
        "tokens",
        {"full": (32, 64, 128, 256, 512), "toy": (32, 64)},
        _of(TEXT, {"prompt": 8, "batch": 1}),
        0,
        1,
        "the weights are read for each token; 2 only where the cache takes longer to read than they do",
        functools.partial(_sample, "new"),
    ),
    "sample_cache": Axis(
        "32 tokens against the cache's length",
        "tokens",
        {"full": (64, 128, 256, 512, 1024), "toy": (64, 128)},
        _of(TEXT, {"new": 32, "batch": 8}),
        0,
        1,
        "the cache is read once for each token, and so are the weights, which do not grow",
        _sample_cache,
    ),
    "convert": Axis(
        "conversion against size",
        "parameters",
        {"full": (64, 128, 256, 384, 512, 768), "toy": (16, 32)},
        {"full": {"head": 64, "n_ctx": 1024, "n_vocab": 32768}, "toy": {"head": 16, "n_ctx": 64, "n_vocab": 64}},
        0,
        1,
        "each number is read and written once; no vocabulary, whose files are the same at any size",
        _convert,
    ),
    "read": Axis(
        "reading data against shards",
        "shards",
        {"full": (1, 2, 4, 8, 16, 32, 64), "toy": (1, 2)},
        {
            "full": {"tokens": 2**24, "n_ctx": 1024, "batch": 32, "batches": 50, "n_vocab": 50257},
            "toy": {"tokens": 2**14, "n_ctx": 64, "batch": 4, "batches": 5, "n_vocab": 50257},
        },
        0,
        0,
        "a window is found by bisection and lies in one file, however many there are",
        _read,
    ),
}
