"""From windows of tokens to the batches of a run's steps, on the mesh."""

import contextlib
import itertools
from collections.abc import Generator

import jax
import numpy as np

from gpt2jax.config import Config
from gpt2jax.data.pipeline import Windows, training_batches
from gpt2jax.partition import Partition


def device_batches(
    config: Config, place: Partition, windows: Windows, start: int, micro_batch: int
) -> Generator[jax.Array, None, None]:
    """The steps' windows [A, B, T + 1] on the mesh, from step ``start`` on, forever; of documents [A, B, 2, T + 1]."""
    training = config.training
    local_batches = training_batches(
        windows,
        seed=training.seed,
        batch_size=micro_batch,
        start_step=training.micro_batches_before(start),
        batch_sharding=place.sharding("batch", None),
        read_threads=config.data.read_threads,
        read_buffer=config.data.read_buffer,
    )
    sharding = place.sharding(None, "batch", None)
    with contextlib.closing(local_batches):  # Ends the reading threads.
        for step in itertools.count(start):
            parts = training.micro_batches_at(step)
            local_ABT1 = np.stack([next(local_batches) for _ in range(parts)])
            shape = (parts, micro_batch, *local_ABT1.shape[2:])
            yield jax.make_array_from_process_local_data(sharding, local_ABT1, shape)
