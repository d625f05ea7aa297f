"""The state that a session of a run begins with: from a checkpoint, from given weights, or fresh."""

import dataclasses
from pathlib import Path

import tiktoken

from gpt2jax import checkpoint, lora
from gpt2jax.base import find_base, save_base
from gpt2jax.checkpoints import Checkpoints
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.partition import Partition
from gpt2jax.record import Adapters
from gpt2jax.train.resume import check_resumable, given_params, resume_notes
from gpt2jax.train.step import TrainState, abstract_state, init_state


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a session begins."""

    state: TrainState
    step: int
    notes: tuple[str, ...]
    """What to say of it, a line each."""
    adapters: Adapters | None
    """What its checkpoints are to say of adapters."""


def begin(
    config: Config, place: Partition, checkpoints: Checkpoints, encoding: tiktoken.Encoding, run_dir: Path
) -> Start:
    """The state of the newest whole checkpoint of this run, else of the weights to start from, else a fresh one.

    Raises:
        GPT2JaxError: checkpoint, weights and settings do not fit together.
    """
    abstract = abstract_state(config, place)
    found = checkpoints.restore_newest(
        learned_state(abstract), lambda meta: check_resumable(config, meta, encoding, run_dir)
    )
    if found:
        meta, state = found
        if meta.adapters is not None:
            folder = find_base(checkpoints.folder / str(meta.step), meta.adapters)
            params = checkpoint.restore_params(folder, lora.without_adapters(abstract.params))
            state = dataclasses.replace(state, params=params | state.params)
        return Start(state, meta.step, tuple(resume_notes(config, meta, run_dir)), meta.adapters)
    if not config.training.init_from:
        if config.lora.rank:
            raise GPT2JaxError(
                f"lora.rank: {config.lora.rank}: adapts weights that are there: needs training.init_from"
            )
        return Start(init_state(config, place), 0, (), None)
    state = init_state(config, place, given_params(config, place, encoding))
    adapters = save_base(run_dir, state.params, config.model, encoding, config.lora) if config.lora.rank else None
    return Start(state, 0, (f"starting from the weights of {config.training.init_from}",), adapters)


def learned_state(state: TrainState) -> TrainState:
    """The state as checkpoints hold it: of its parameters, those that are learned."""
    return dataclasses.replace(state, params=lora.split(state.params)[0])
