"""Whether a run may go on from a checkpoint, or start from given weights; and what is worth saying of it."""

import dataclasses
from pathlib import Path

import tiktoken

from gpt2jax import config as settings
from gpt2jax import lora
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.record import Meta
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.optimizer import schedule_end
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import load_params


def write_config(config: Config, run_dir: Path) -> None:
    # Which process this is belongs to the launch: a run may go on in one process, or in others.
    recorded = dataclasses.replace(config, distributed=settings.DistributedConfig())
    write_text(run_dir / "config.yaml", settings.to_yaml(recorded))


def check_resumable(config: Config, meta: Meta, encoding: tiktoken.Encoding, run_dir: Path) -> None:
    """Refuse to go on from a checkpoint of another model or vocabulary, or from past the end."""
    # How the model is computed may change between sessions; what it is may not.
    for name in settings.SIZES:
        ours, theirs = getattr(config.model, name), getattr(meta.model, name)
        if ours != theirs:
            raise GPT2JaxError(
                f"model.{name}: {ours}: the checkpoints in {run_dir} have {theirs};"
                " give another --training.run-dir, or the settings of that run"
            )
    _check_vocabulary(config, encoding, meta.encoding, f"the checkpoints in {run_dir}")
    recorded = run_dir / "config.yaml"
    before = settings.load(recorded) if recorded.exists() else config
    # What the state holds, and means, hangs on these.
    for name, ours, theirs in (
        ("optimizer.name", config.optimizer.name, before.optimizer.name),
        ("training.freeze", sorted(frozen_rows(config)), sorted(frozen_rows(before))),
        ("lora.rank", config.lora.rank, before.lora.rank),
        ("lora.alpha", config.lora.alpha, before.lora.alpha),
        ("lora.targets", _paths(config), _paths(before)),
    ):
        if ours != theirs:
            raise GPT2JaxError(
                f"{name}: {ours}: the checkpoints in {run_dir} have {theirs}; give another --training.run-dir, and"
                f" --init-from {run_dir} to start from its weights"
            )
    given = config.training.init_from
    if given and before.training.init_from != given:
        raise GPT2JaxError(
            f"training.init_from: {given}: {run_dir} has a checkpoint of step {meta.step} already, which did not start"
            " from it; give another --training.run-dir"
        )
    if meta.step > config.training.steps:
        raise GPT2JaxError(f"training.steps: {config.training.steps}: {run_dir} has a checkpoint of step {meta.step}")


def _paths(config: Config) -> list[str]:
    return [row.path for row in lora.targets(config.lora)]


def resume_notes(config: Config, meta: Meta, run_dir: Path) -> list[str]:
    """What to say of the checkpoint that a run goes on from: what it cannot vouch for, what has changed since."""
    notes = []
    if meta.leaves is None:
        notes.append(f"the checkpoint of step {meta.step} has no digests: damage in it would not be noticed")
    recorded = run_dir / "config.yaml"
    if recorded.exists():
        before = settings.load(recorded)
        # Where and how long a run goes on is its own affair; what it computes with is worth a line.
        free = {"run_dir", "steps", "init_from", "export", "keep_last", "keep_best", "keep_every"}
        free |= {
            "scan_unroll",
            "wandb",
            "sample_interval",
            "device_watts",
            "grid_gco2_per_kwh",
            "cloud_provider",
            "compute_region",
        }
        changed = [
            f"{section}.{field.name} {getattr(old, field.name)} -> {getattr(new, field.name)}"
            for section in ("model", "data", "optimizer", "training")
            for old, new in [(getattr(before, section), getattr(config, section))]
            for field in dataclasses.fields(new)
            if field.name not in free and getattr(old, field.name) != getattr(new, field.name)
        ]
        if changed:
            notes.append(f"going on with other settings than before: {', '.join(changed)}")
        was, now = schedule_end(before), schedule_end(config)
        if None not in (was, now) and was != now:
            notes.append(
                f"the learning rate's schedule ended at step {was}, and ends at step {now} now: from step"
                f" {meta.step} on it is that of the new length; --optimizer.decay-steps sets its end"
            )
    return notes


def _check_vocabulary(
    config: Config, encoding: tiktoken.Encoding, theirs: tiktoken.Encoding | None, whose: str
) -> None:
    if theirs is not None and (encoding.name, encoding._mergeable_ranks) != (theirs.name, theirs._mergeable_ranks):
        raise GPT2JaxError(
            f"data.path: {config.data.path}: its vocabulary ({encoding.name}) is not that of {whose} ({theirs.name})"
        )


def given_params(config: Config, place: Partition, encoding: tiktoken.Encoding) -> Params:
    """The parameters that ``training.init_from`` names, if they are of this model and vocabulary."""
    assert config.training.init_from is not None
    weights = open_weights(config.training.init_from)
    _check_vocabulary(config, encoding, weights.origin.encoding, config.training.init_from)
    return load_params(weights, place, config.model)
