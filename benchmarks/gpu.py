"""Our side of `benchmarks/gpu_suite.sh`, a command a part; each prints lines of JSON. For a CPU there is a toy size.

python -m benchmarks.gpu check --size toy
python -m benchmarks.gpu train --size gpt2-medium --micro 8 16 32
python -m benchmarks.gpu sample --size gpt2 --batch 1 8 64 256
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
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
from gpt2jax.model import forward
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.presets import PRESETS
from gpt2jax.train.step import init_state, make_train_step

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


def matrix_peak(side: int) -> float:
    """Operations a second of a square bfloat16 product on this device: the best of a few."""
    a, b = (jax.random.normal(jax.random.key(one), (side, side), jnp.bfloat16) for one in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    return 2 * side**3 / min(seconds(lambda: product(a, b)))


def bandwidth(size: int) -> float:
    """Bytes a second that adding 1 to an array reads and writes."""
    array = jnp.zeros(size, jnp.uint8)
    add = jax.jit(lambda array: array + jnp.uint8(1))
    return 2 * size / min(seconds(lambda: add(array)))


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check(given: argparse.Namespace) -> None:
    """The kernel against our own attention, forward and gradients, and the model in bfloat16 against float32."""
    config = ModelConfig(**SIZES[given.size])
    gpu = jax.default_backend() == "gpu"
    shape = (2, config.n_head, config.n_ctx, config.head_dim)
    q, k, v, grad = (jax.random.normal(jax.random.key(one), shape) for one in range(4))
    want, pull = jax.vjp(causal_attention, q, k, v)
    kernel = cudnn_attention if gpu else causal_attention
    low = [array.astype(jnp.bfloat16) for array in (q, k, v, grad)]
    got, pull_low = jax.vjp(kernel, *low[:3])
    apart = {"forward": relative(got, want)}
    apart |= {name: relative(a, b) for name, a, b in zip("qkv", pull_low(low[3]), pull(grad), strict=True)}
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    tokens = jax.random.randint(jax.random.key(1), (2, config.n_ctx), 0, config.n_vocab)
    logits = [
        jax.jit(forward, static_argnames="config")(
            params, tokens, config=dataclasses.replace(config, compute_dtype=dtype)
        )
        for dtype in ("bfloat16", "float32")
    ]
    apart["logits"] = relative(*(one[..., : config.n_vocab] for one in logits))
    say(part="check", size=given.size, kernel=kernel.__name__, apart=apart)
    # bfloat16 has 8 bits: 0.004 a rounding, and a few of them in a row.
    if not all(one < 0.03 for one in apart.values()):
        raise SystemExit(f"too far apart: {apart}")


def train(given: argparse.Namespace) -> None:
    peak = matrix_peak(given.matrix)
    say(part="peak", matrix=given.matrix, teraflops=peak / 1e12)
    for micro in given.micro:
        model = dataclasses.replace(ModelConfig(**SIZES[given.size]), compute_dtype="bfloat16")
        optimizer = OptimizerConfig(learning_rate=6e-4, schedule="constant", warmup_steps=0)
        config = Config(model=model, optimizer=optimizer, training=TrainingConfig(batch_size=micro))
        place = Partition(make_mesh(MeshConfig()))
        try:
            state, step = init_state(config, place), make_train_step(config, place)
            shape = (1, micro, model.n_ctx + 1)
            windows = jnp.asarray(np.random.default_rng(0).integers(model.n_vocab, size=shape, dtype=np.int32))
            times = []
            for turn in range(1 + ROUNDS):
                start = time.perf_counter()
                for _ in range(given.steps):
                    state, metrics = step(state, windows)
                loss = float(metrics["loss"])
                if turn:  # The first is for compilation.
                    times.append((time.perf_counter() - start) / given.steps)
            del state, step
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            say(part="train", size=given.size, micro=micro, problem="out of memory")
            break
        tokens = micro * model.n_ctx / np.median(times)
        share = tokens * parameters.train_flops_per_token(model, model.n_ctx) / peak
        say(part="train", size=given.size, micro=micro, seconds=spread(times), tokens=tokens, mfu=share, loss=loss)


def sample(given: argparse.Namespace) -> None:
    config = dataclasses.replace(ModelConfig(**SIZES[given.size]), compute_dtype="bfloat16")
    speed = bandwidth(given.bytes)
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    params = jax.jit(decoding_params, static_argnames="config")(params, config=config)
    new = min(NEW, config.n_ctx // 2)
    prompt = min(PROMPT, config.n_ctx - new)
    sampling = SamplingConfig(do_sample=False, max_new_tokens=new)
    for batch in given.batch:
        prompts = np.random.default_rng(0).integers(config.n_vocab, size=(batch, prompt)).tolist()
        requests = [Request(tuple(one), sampling) for one in prompts]
        times = seconds(lambda requests=requests: Batch(params, requests, config).run()[0].tokens)  # type: ignore[misc]
        cache = 2 * 2 * batch * config.n_layer * config.n_embd * (prompt + new / 2)
        floor = new * (2 * parameters.count(config) + cache) / speed
        share = floor / float(np.median(times))
        say(part="sample", size=given.size, batch=batch, new=new, seconds=spread(times), of_the_floor=share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("check", "train", "sample"))
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--micro", nargs="+", type=int, default=[8, 16, 32], help="sequences a step, rising")
    parser.add_argument("--steps", type=int, default=5, help="in a round")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--matrix", type=int, default=8192, help="side of the product that the peak is measured with")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of the array that bandwidth is measured with")
    given = parser.parse_args()
    {"check": check, "train": train, "sample": sample}[given.part](given)


if __name__ == "__main__":
    main()
