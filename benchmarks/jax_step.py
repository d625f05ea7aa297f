"""The training step of gpt2jax under ``train_step.py``: steps asked for on standard input, seconds answered."""

import json
import sys
import time

import jax
import numpy as np

from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.train.step import init_state, make_train_step


def main() -> None:
    sizes = json.loads(sys.argv[1])
    batch = sizes.pop("batch")
    config = Config(
        model=ModelConfig(**sizes, scan_unroll=sizes["n_layer"]),
        optimizer=OptimizerConfig(learning_rate=1e-3, min_learning_rate=1e-4, beta2=0.99),
    )
    place = Partition(make_mesh(MeshConfig()))
    state, step = init_state(config, place), make_train_step(config, place)
    shape = (1, batch, config.model.n_ctx + 1)
    windows = np.random.default_rng(0).integers(config.model.n_vocab, size=shape, dtype=np.int32)

    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            state, metrics = step(state, jax.device_put(windows))
        float(metrics["loss"])
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
