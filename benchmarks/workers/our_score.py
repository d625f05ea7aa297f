"""Our side of ``python -m benchmarks score``: scores windows when told to, and says how long it took."""

import json
import sys
import time

import numpy as np

from gpt2jax.evaluate.likelihood import Scorer
from gpt2jax.evaluate.rows import Row


def main() -> None:
    work = json.loads(sys.argv[1])
    scorer = Scorer.load(work["model"])
    rows = [Row(tokens, work["first"]) for tokens in np.load(work["windows"])]
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            total = sum(float(one.log_probs.sum(dtype=np.float64)) for one in scorer.score_all(rows))
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, [total, None]]), flush=True)


if __name__ == "__main__":
    main()
