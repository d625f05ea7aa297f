"""Our side of ``python -m benchmarks load``: loads when told to; answers the sum of squares of what it loaded."""

import json
import sys
import time

import jax
import numpy as np

import gpt2jax


def main() -> None:
    work = json.loads(sys.argv[1])
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            params, _, _ = gpt2jax.load(work["model"])
            jax.block_until_ready(params)
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        total = sum(float(np.square(leaf, dtype=np.float64).sum()) for leaf in jax.tree.leaves(params))
        print(json.dumps([seconds, cpu, total]), flush=True)


if __name__ == "__main__":
    main()
