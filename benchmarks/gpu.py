"""Our side of `benchmarks/gpu_suite.sh`, a command a part; each prints lines of JSON. For a CPU there is a toy size.

python -m benchmarks.gpu check --size toy
python -m benchmarks.gpu train --size gpt2-medium --micro 8 16 32
python -m benchmarks.gpu sample --size gpt2 --batch 1 8 64 256
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.turns import spread
from gpt2jax import parameters
from gpt2jax.attention import causal_attention
from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request
from gpt2jax.kernels import cudnn_attention
from gpt2jax.model import decode_step, forward, prefill
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.presets import PRESETS
from gpt2jax.train.step import init_state, lower_step

SIZES: dict[str, dict[str, Any]] = PRESETS | {
    "toy": {"n_vocab": 65, "n_ctx": 32, "n_embd": 32, "n_head": 2, "n_layer": 2}
}
ROUNDS = 5
PROMPT, NEW = 32, 64


def say(**found: Any) -> None:
    device = jax.devices()[0]
    print(json.dumps({"side": "gpt2jax", "jax": jax.__version__, "device": device.device_kind} | found), flush=True)


def seconds(function: Callable[[], Any]) -> list[float]:
    """Of each of a few calls, after one that is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return times


def each(function: Callable[[], Any]) -> float:
    """The least seconds of one of ten calls, for which nobody waits in between."""
    return min(seconds(lambda: [function() for _ in range(10)][-1])) / 10


def matrix_peak(sides: Sequence[int]) -> float:
    """Operations a second of the fastest of some square bfloat16 products of random numbers on this device."""
    product = jax.jit(lambda a, b: a @ b)

    def speed(side: int) -> float:
        a, b = (jax.random.normal(jax.random.key(one), (side, side), jnp.bfloat16) for one in (0, 1))
        return 2 * side**3 / each(lambda: product(a, b))

    return max(map(speed, sides))


def bandwidth(size: int) -> float:
    """Bytes a second that adding 1 to float32 numbers reads and writes."""
    array = jnp.zeros(size // 4)
    add = jax.jit(lambda array: array + 1)
    return 2 * size / each(lambda: add(array))


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check(given: argparse.Namespace) -> None:
    """The kernel against our own attention, forward and gradients; the model in bfloat16, reading a text at once and
    its last token by itself, against float32."""
    config = ModelConfig(**SIZES[given.size], compute_dtype="bfloat16")
    exact = dataclasses.replace(config, compute_dtype="float32")
    gpu = jax.default_backend() == "gpu"
    kernel = cudnn_attention if gpu else causal_attention
    shape = (2, config.n_head, config.n_ctx, config.head_dim)
    *qkv, grad = (jax.random.normal(jax.random.key(one), shape) for one in range(4))

    @functools.partial(jax.jit, static_argnums=0)
    def attention(kernel: Callable[..., jax.Array], qkv: list[jax.Array], grad: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(kernel, *qkv)
        return out, *pull(grad)

    low = [array.astype(jnp.bfloat16) for array in (*qkv, grad)]
    found, wanted = attention(kernel, low[:3], low[3]), attention(causal_attention, qkv, grad)
    apart = {name: relative(*pair) for name, *pair in zip(("forward", *"qkv"), found, wanted, strict=True)}

    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    tokens = jax.random.randint(jax.random.key(1), (1, config.n_ctx // 2), 0, config.n_vocab)

    def last(config: ModelConfig) -> jax.Array:
        return jax.jit(forward, static_argnames="config")(params, tokens, config=config)[0, -1]

    def decoded() -> jax.Array:
        """The same logits, of the last token read by itself."""
        decoding = jax.jit(decoding_params, static_argnames="config")(params, config=config)
        length = jnp.array([tokens.shape[1] - 1], jnp.int32)
        _, cache = jax.jit(prefill, static_argnums=(3, 4))(decoding, tokens[:, :-1], length, config, config.n_ctx)
        return jax.jit(decode_step, static_argnums=4)(decoding, tokens[:, -1], length, cache, config)[0][0]

    with ThreadPoolExecutor() as pool:  # Compiles them side by side.
        jobs = [pool.submit(last, exact), pool.submit(last, config), pool.submit(decoded)]
        wanted_V, *logits = [job.result()[: config.n_vocab] for job in jobs]
    apart |= {name: relative(one, wanted_V) for name, one in zip(("logits", "decoded"), logits, strict=True)}
    say(part="check", size=given.size, kernel=kernel.__name__, apart=apart)
    refuse(apart)


def integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def refuse(apart: dict[str, float]) -> None:
    # bfloat16 has 8 bits: 0.004 a rounding, and a few of them in a row.
    if not all(one < 0.03 for one in apart.values()):
        raise SystemExit(f"too far apart: {apart}")


def train(given: argparse.Namespace) -> None:
    peak = matrix_peak(given.matrix)
    say(part="peak", matrix=given.matrix, teraflops=peak / 1e12)
    model = ModelConfig(**SIZES[given.size], compute_dtype="bfloat16")
    optimizer = OptimizerConfig(learning_rate=6e-4, schedule="constant", warmup_steps=0)
    place = Partition(make_mesh(MeshConfig()))

    def configured(micro: int) -> Config:
        return Config(model=model, optimizer=optimizer, training=TrainingConfig(batch_size=micro))

    def compiled(micro: int) -> tuple[Any, float]:
        start = time.perf_counter()
        step = None
        with _while_memory_lasts():
            step = lower_step(configured(micro), place)[1].compile()
        return step, time.perf_counter() - start

    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(compiled, given.micro))
    state = init_state(configured(given.micro[0]), place)
    for micro, (step, compilation) in zip(given.micro, programs, strict=True):
        shape = (1, micro, model.n_ctx + 1)
        windows = jnp.asarray(np.random.default_rng(0).integers(model.n_vocab, size=shape, dtype=np.int32))
        times: list[float] = []
        with _while_memory_lasts():
            for turn in range(1 + ROUNDS if step else 0):
                start = time.perf_counter()
                for _ in range(given.steps):
                    state, metrics = step(state, windows)
                loss = float(metrics["loss"])
                if turn:  # The first warms up.
                    times.append((time.perf_counter() - start) / given.steps)
        if len(times) < ROUNDS:
            say(part="train", size=given.size, micro=micro, problem="out of memory")
            break
        tokens = micro * model.n_ctx / np.median(times)
        share = tokens * parameters.train_flops_per_token(model, model.n_ctx) / peak
        found = {"seconds": spread(times), "tokens": tokens, "mfu": share, "loss": loss, "compilation": compilation}
        say(part="train", size=given.size, micro=micro, **found)


@contextlib.contextmanager
def _while_memory_lasts() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise


def sample(given: argparse.Namespace) -> None:
    """Greedy texts: the time of all, of each token after the first, and the least that reading the weights and the
    cache from memory takes."""
    config = ModelConfig(**SIZES[given.size], compute_dtype="bfloat16")
    speed = bandwidth(given.bytes)
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    params = jax.jit(decoding_params, static_argnames="config")(params, config=config)
    new = min(NEW, config.n_ctx // 2)
    prompt = min(PROMPT, config.n_ctx - new)
    sampling = SamplingConfig(do_sample=False, max_new_tokens=new)

    def write(batch: int) -> tuple[float, float]:
        prompts = np.random.default_rng(0).integers(config.n_vocab, size=(batch, prompt)).tolist()
        start = time.perf_counter()
        texts = Batch(params, [Request(tuple(one), sampling) for one in prompts], config)
        first = time.perf_counter()
        texts.run()
        return first - start, time.perf_counter() - first

    with ThreadPoolExecutor() as pool:  # Compiles them side by side.
        list(pool.map(write, given.batch))
    for batch in given.batch:
        times = np.array([write(batch) for _ in range(ROUNDS)])
        cache = 2 * 2 * batch * config.n_layer * config.n_embd * (prompt + new / 2)
        floor, token = (2 * parameters.count(config) + cache) / speed, float(np.median(times[:, 1])) / (new - 1)
        found = {"seconds": spread(times.sum(1).tolist()), "first": float(np.median(times[:, 0])), "token": token}
        say(part="sample", size=given.size, batch=batch, new=new, **found, floor=floor, of_the_floor=floor / token)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("check", "train", "sample"))
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["gpt2"])
    parser.add_argument("--micro", nargs="+", type=int, default=[8, 16, 32], help="sequences a step, rising")
    parser.add_argument("--steps", type=int, default=5, help="in a round")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64, 256])
    sides = "sides of the products that the peak is measured with"
    parser.add_argument("--matrix", nargs="+", type=int, default=[4096, 8192, 16384], help=sides)
    parser.add_argument("--bytes", type=int, default=1 << 32, help="of the array that bandwidth is measured with")
    given = parser.parse_args()
    for size in given.size:
        given.size = size
        {"check": check, "train": train, "sample": sample}[given.part](given)


if __name__ == "__main__":
    main()
