"""The loss on data that was held out, while a run goes."""

import math

import jax
import numpy as np

from gpt2jax.config import Config
from gpt2jax.data.pipeline import validation_windows
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.corpus import Corpus
from gpt2jax.train.rows import Row
from gpt2jax.train.step import document_start, make_eval_step


class Evaluator:
    """Validation over windows that are the same every time."""

    def __init__(self, config: Config, place: Partition, corpus: Corpus, batch: int) -> None:
        assert corpus.held_out is not None
        self.windows, self.batch, self.bytes_per_token = corpus.held_out, batch, corpus.bytes_per_token
        self.batches = config.training.eval_batches
        self.sharding = place.sharding("batch", None)
        self.step = make_eval_step(config.model, place, config.training.loss_chunk, config.lora, document_start(config))

    def __call__(self, params: Params, step: int, train_seconds: float) -> Row:
        total = count = 0.0
        for tokens_BT1, weights_BT in validation_windows(self.windows, self.batch, self.batches):
            loss, weight = self.step(params, self._put(tokens_BT1), self._put(weights_BT))
            total, count = total + float(loss), count + float(weight)
        row: Row = {"step": step, "validation_loss": total / count, "train_seconds": train_seconds}
        if self.bytes_per_token:
            row["bits_per_byte"] = row["validation_loss"] / math.log(2) / self.bytes_per_token
        return row

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, self.sharding, lambda index: array[index])
