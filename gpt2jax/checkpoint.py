"""Checkpoints: the one module that knows Orbax.

A checkpoint is a folder named by its step. It holds the train state, and in a JSON item all that is needed to use
it without the run around it: the model's settings and the tokenizer. Checkpoints are restored into any mesh.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import pydantic
import tiktoken

from gpt2jax import tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError

T = TypeVar("T")

FORMAT_VERSION = 1
# Of a file of parameters: small enough to read for a shard, large enough to be read at the disk's speed.
CHUNK_BYTES = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    step: int
    model: ModelConfig
    encoding: tiktoken.Encoding | None
    """None where nobody knows which vocabulary the tokens are of (weights that came without one)."""
    validation_loss: float | None = None
    """Nats per token at this step, where it was measured."""

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "model": dataclasses.asdict(self.model),
            "tokenizer": None if self.encoding is None else tokenizer.to_spec(self.encoding),
            "validation_loss": self.validation_loss,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Self:
        if value.get("format_version") != FORMAT_VERSION:
            raise GPT2JaxError(f"{where}: format_version {value.get('format_version')}: should be {FORMAT_VERSION}")
        model = pydantic.TypeAdapter(ModelConfig).validate_python(value["model"])
        encoding = None if value["tokenizer"] is None else tokenizer.from_spec(value["tokenizer"])
        return cls(value["step"], model, encoding, value["validation_loss"])


class Checkpoints:
    """The checkpoints of one run: written in the background, the newest few and the best kept.

    Use as a context manager: leaving it waits for writes in flight and raises what went wrong in them.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2, read_only: bool = False) -> None:
        """Open ``folder``, which is made unless ``read_only``.

        Args:
            keep_last: newest checkpoints to keep, beside the one with the lowest validation loss.
        """
        # Orbax logs every save and restore, and warns of what is as it should be here.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = Path(folder).absolute()
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep_last),
                    policies.BestN(get_metric_fn=lambda metrics: metrics["validation_loss"], reverse=True, n=1),
                ]
            ),
            enable_async_checkpointing=not read_only,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def save(self, state: Any, meta: Meta) -> None:
        """Start writing ``state``; it may be donated as soon as this returns.

        Raises:
            GPT2JaxError: a checkpoint of this step or a later one exists (Orbax would skip the save in silence).
        """
        latest = self.latest_step()
        if latest is not None and meta.step <= latest:
            raise GPT2JaxError(f"checkpoint of step {meta.step}: {self.folder} already holds step {latest}")
        loss = math.inf if meta.validation_loss is None else meta.validation_loss
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta.to_json()))
        if not self._manager.save(meta.step, args=items, metrics={"validation_loss": loss}):
            raise GPT2JaxError(f"checkpoint of step {meta.step}: Orbax did not save it in {self.folder}")

    def read_meta(self, step: int) -> Meta:
        where = f"{self.folder}/{step}"
        with _readable(where):
            items = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            return Meta.from_json(items["meta"], where)

    def restore(self, step: int, abstract: T) -> T:
        """The state of ``step``.

        Args:
            abstract: the state's dataclass of ShapeDtypeStructs with shardings: each shard is read to where it belongs.
                A field that the checkpoint does not have, as it is older, comes back as None.
        """
        with _readable(f"{self.folder}/{step}"):
            item = fields_there(self.folder / str(step) / "state", abstract)
            items = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(item)))
            return type(abstract)(**{name: items["state"].get(name) for name in _fields(abstract)})


def fields_there(state: Path, abstract: Any) -> dict[str, Any]:
    """The fields of ``abstract``, a dataclass, that the saved state in the folder ``state`` has."""
    there = ocp.StandardCheckpointHandler().metadata(state).tree
    return {name: getattr(abstract, name) for name in _fields(abstract) if name in there}


def _fields(abstract: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(abstract)]


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns what Orbax and tensorstore raise for a damaged checkpoint, which is many things, into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GPT2JaxError(f"{where}: the checkpoint cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The end of the first line, where tensorstore says why after saying of what; without its dump of settings."""
    lines = str(error).split(" [", 1)[0].strip().splitlines()
    return ": ".join(lines[0].split(": ")[-2:]) if lines else type(error).__name__


def find(path: str | Path) -> tuple[Path, int]:
    """The checkpoints folder and the step that ``path`` means.

    ``path`` is a run's folder (its newest checkpoint), its ``checkpoints`` folder, or one checkpoint in it.

    Raises:
        GPT2JaxError: there is no checkpoint.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise GPT2JaxError(f"{path}: no such folder; expected a run's folder or a checkpoint")
    if path.name.isdecimal() and (path / "state").is_dir():
        return path.parent, int(path.name)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = [int(child.name) for child in folder.iterdir() if child.name.isdecimal() and (child / "state").is_dir()]
    if not steps:
        raise GPT2JaxError(f"{path}: holds no checkpoint; `gpt2jax train` writes them to RUN/checkpoints")
    return folder, max(steps)


def holds_one(path: Path) -> bool:
    """Whether ``path`` means a checkpoint (:func:`find`)."""
    try:
        find(path)
    except GPT2JaxError:
        return False
    return True


def read_meta(path: str | Path) -> Meta:
    """What the checkpoint that ``path`` means (:func:`find`) says of itself."""
    folder, step = find(path)
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.read_meta(step)


def save_params(folder: Path, params: dict[str, Any], meta: Meta) -> None:
    """Write a checkpoint of parameters alone, which :func:`find` and :func:`restore_params` take, into ``folder``.

    Beside the parameters the host holds one of them at most: they are written one after the other, uncompressed
    (random bits do not shrink) and in chunks, so that a mesh reads no more than its shards.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # What goes wrong is raised, and need not be logged too.
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(save_concurrent_gb=concurrent_gb(params), use_compression=False),
        "meta": ocp.JsonCheckpointHandler(),
    }
    state = {"params": params}
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), state)
    items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state, save_args=save_args), meta=ocp.args.JsonSave(meta.to_json())
    )
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    try:
        with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers) as manager:
            manager.save(meta.step, args=items)
    except Exception as error:  # A full disk comes as one of several of tensorstore's.
        # Other writes of Orbax's fail with it; asyncio would tell of each when it is forgotten.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise GPT2JaxError(f"{folder}: cannot be written ({_reason(error)})") from None


def concurrent_gb(params: dict[str, Any]) -> int:
    """The least that Orbax can be told to hold at once: it refuses an array larger than that."""
    return max(math.ceil(math.prod(leaf.shape) * leaf.dtype.itemsize / 1e9) for leaf in jax.tree.leaves(params))


def restore_params(path: str | Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parameters alone of the checkpoint that ``path`` means (:func:`find`).

    Args:
        abstract: ShapeDtypeStructs with shardings, in the layout of the parameters.
    """
    return _restore(path, abstract, ocp.checkpoint_utils.construct_restore_args(abstract))


def restore_array(path: str | Path, key: str) -> np.ndarray:
    """One parameter, by its path in the table, of the checkpoint that ``path`` means: whole, on the host, as stored."""
    item: Any = 0
    restore_args: Any = ocp.RestoreArgs(restore_type=np.ndarray)
    for part in reversed(key.split("/")):
        item, restore_args = {part: item}, {part: restore_args}
    [array] = jax.tree.leaves(_restore(path, item, restore_args))
    return array


def _restore(path: str | Path, item: Any, restore_args: Any) -> dict[str, Any]:
    folder, step = find(path)
    args = ocp.args.PyTreeRestore(item={"params": item}, restore_args={"params": restore_args}, partial_restore=True)
    with _readable(f"{folder}/{step}"), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder / str(step) / "state", args=args)["params"]
