"""What a run that has come to its end stands for."""

from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params


def final_params(
    config: Config, place: Partition, checkpoints: Checkpoints, params: Params, step: int
) -> tuple[Params, int]:
    """The parameters that samples and exports are of, and their step: with ``training.patience`` those of the best
    checkpoint, else ``params``, the table's after the last ``step``."""
    if not config.training.patience:
        return params, step
    checkpoints.wait()
    best = checkpoints.best_step()
    if best is None or best == step:
        return params, step
    return load_params(open_weights(checkpoints.folder / str(best)), place, config.model, progress=False), best
