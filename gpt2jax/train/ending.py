"""What a run that has come to its end stands for."""

from collections.abc import Callable

from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.train.samples import Samples
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params


def conclude(
    config: Config,
    place: Partition,
    checkpoints: Checkpoints,
    samples: Samples,
    params: Params,
    step: int,
    say: Callable[[str], None],
) -> tuple[Params, int]:
    """Find what the run stands for, write its last samples, and say both.

    Args:
        params: the table's, with adapters merged, after the last ``step``.

    Returns:
        The parameters that exports are of, and their step (:func:`final_params`).
    """
    params, params_step = final_params(config, place, checkpoints, params, step)
    best = params_step != step
    if best:
        say(f"best: {config.training.run_dir}/checkpoints/{params_step}, which `gpt2jax generate --model` takes")
    if samples.wanted_at_end() and samples.lacks(params_step, best):
        say(samples.add(params, params_step, final=True, best=best))
    return params, params_step


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
