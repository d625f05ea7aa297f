"""One text decoded by XLA's programs and by the kernels of one_text.py in some sizes: their logits compared, then in
turn. Prints lines of JSON, as gpu.py does; for a CPU, which interprets the kernels, there is a toy size.

python -m benchmarks.gpu_trial --size gpt2 gpt2-xl
python -m benchmarks.gpu_trial --size toy --kernels 4,4,64
"""

import argparse
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from unittest import mock

import jax
import numpy as np

from benchmarks import one_text
from benchmarks.gpu import NEW, PROMPT, ROUNDS, SIZES, integers, refuse, relative, say
from benchmarks.turns import spread
from gpt2jax import model, parameters
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate import batch, engine
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import SamplingState, decoding_dtype
from gpt2jax.generate.request import Request
from gpt2jax.model import decode_step

# Rows, warps and chunk of one_text.py.
KERNELS = [(4, 4, 1024), (2, 2, 1024), (1, 1, 1024), (8, 8, 1024), (2, 4, 1024), (1, 2, 1024), (8, 4, 512)]


def trial(size: str, kernels: Sequence[tuple[int, ...]]) -> None:
    config = ModelConfig(**SIZES[size], compute_dtype="bfloat16")
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
    low = jax.tree.map(lambda leaf, to: leaf.astype(to), params, parameters.tree(decoding_dtype(config)))
    unstack = jax.jit(parameters.unstack, static_argnames="config")
    plain, turned = unstack(low, config=config), unstack(parameters.turn(low), config=config)
    del params, low
    new = min(NEW, config.n_ctx // 2)
    request = Request((1,) * min(PROMPT, config.n_ctx - new), SamplingConfig(do_sample=False, max_new_tokens=new))

    def state(rows: int) -> SamplingState:
        """Of a batch of one text, before its second token."""
        with mock.patch.object(batch, "least_rows", return_value=rows):
            return jax.block_until_ready(Batch(plain, [request], config)._state)

    def lower(decode: Any, params: parameters.Params, rows: int) -> Any:
        with mock.patch.object(model, "decode_step", decode):
            untraced: Any = engine.advance
            advance = jax.jit(lambda *args: untraced.__wrapped__(*args, config=config), donate_argnums=1)
            return advance.lower(params, state(rows), np.int32(new))

    one = state(1)
    args = one.tokens_BS[0, one.position_B], one.position_B, one.cache

    def logits(decode: Any, params: parameters.Params) -> Any:
        # A function of its own each time: of the same one, jax would take what it traced before.
        return jax.jit(lambda *args: decode(*args, config)[0][0, : config.n_vocab]).lower(params, *args)

    lowered = {"xla": (lower(decode_step, plain, 2), plain, 2)}
    looks, untraced = [logits(decode_step, plain)], cast(Any, one_text.read_block).__wrapped__
    for sizes in kernels:
        changed: dict[str, Any] = dict(zip(("ROWS", "WARPS", "CHUNK"), sizes, strict=True))
        changed["read_block"] = jax.jit(functools.partial(untraced), static_argnums=4)
        with mock.patch.multiple(one_text, **changed):
            looks.append(logits(one_text.decode_step, turned))
            lowered[str(sizes)] = lower(one_text.decode_step, turned, 1), turned, 1
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda one: one.compile(), [*looks, *(one for one, *_ in lowered.values())]))
    by_xla, *by_kernels = [
        look(params, *args) for look, (_, params, _) in zip(compiled, lowered.values(), strict=False)
    ]
    programs = compiled[len(looks) :]
    apart = {name: relative(one, by_xla) for name, one in zip([*lowered][1:], by_kernels, strict=True)}
    say(part="trial", size=size, apart=apart)
    refuse(apart)
    times: dict[str, list[float]] = {name: [] for name in lowered}
    for turn in range(1 + ROUNDS):
        for program, (name, (_, params, rows)) in zip(programs, lowered.items(), strict=True):
            ready = state(rows)
            start = time.perf_counter()
            jax.block_until_ready(program(params, ready, np.int32(new)))
            if turn:
                times[name].append((time.perf_counter() - start) / (new - 1))
    for name, found in times.items():
        say(part="trial", size=size, by=name, token=spread(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["gpt2"])
    kernels = "ROWS,WARPS,CHUNK of one_text.py"
    parser.add_argument("--kernels", nargs="+", type=integers, default=KERNELS, help=kernels)
    given = parser.parse_args()
    for size in given.size:
        trial(size, given.kernels)


if __name__ == "__main__":
    main()
