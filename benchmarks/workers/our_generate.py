"""Our side of ``python -m benchmarks generate``: writes when told to, and says how long it took."""

import json
import sys
import time

import jax
import numpy as np

import gpt2jax
from gpt2jax.config import SamplingConfig
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.engine import decoding_params
from gpt2jax.generate.request import Request


def main() -> None:
    work = json.loads(sys.argv[1])
    prompts = np.load(work["prompts"]).tolist()
    params, config, _ = gpt2jax.load(work["model"])
    params = jax.jit(decoding_params, static_argnames="config")(params, config=config)
    sampling = SamplingConfig(do_sample=False, max_new_tokens=work["new"])
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            rows = Batch(params, [Request(tuple(prompt), sampling) for prompt in prompts], config).run()
        out = [list(row.tokens) for row in rows]
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, out]), flush=True)


if __name__ == "__main__":
    main()
