"""Our side of ``python -m benchmarks train``: steps when told to, on the windows that it was given."""

import dataclasses
import json
import sys
import time

import jax
import numpy as np

import gpt2jax
from gpt2jax import runtime
from gpt2jax.config import Config, MeshConfig, OptimizerConfig, TrainingConfig
from gpt2jax.partition import Partition, make_mesh
from gpt2jax.train.step import init_state, make_train_step


def main() -> None:
    work = json.loads(sys.argv[1])
    runtime.keep_memory()  # As `gpt2jax train` does.
    params, model, _ = gpt2jax.load(work["model"])
    windows = np.load(work["windows"]).astype(np.int32)[None]
    config = Config(
        # No loop over layers, as configs/shakespeare_char.yaml has it.
        model=dataclasses.replace(model, scan_unroll=model.n_layer),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=0),
        training=TrainingConfig(batch_size=windows.shape[1]),
    )
    place = Partition(make_mesh(MeshConfig()))
    state, step = init_state(config, place, params), make_train_step(config, place)
    del params
    for line in sys.stdin:
        start, used, losses = time.perf_counter(), time.process_time(), []
        for _ in range(int(line)):
            state, metrics = step(state, jax.device_put(windows))
            losses.append(metrics["loss"])
        out = [float(loss) for loss in losses]
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, out]), flush=True)


if __name__ == "__main__":
    main()
