"""One checkpoint, read and written; with ``checkpoints.py`` all that knows Orbax.

A checkpoint is a folder named by its step. It holds the train state, and in a JSON item all that is needed to use
it without the run around it: the model's settings, the tokenizer, and shape, dtype and digest of every leaf, which
are compared whenever it is read (``record.py``). Checkpoints are restored into any mesh.
"""

import contextlib
import dataclasses
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from gpt2jax import digest
from gpt2jax.distributed import all_agree
from gpt2jax.errors import GPT2JaxError
from gpt2jax.record import DamagedError, Meta, check_same_leaves, compare, describe

T = TypeVar("T")

# Of a file of parameters: small enough to read for a shard, large enough to be read at the disk's speed.
CHUNK_BYTES = 128 * 2**20


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
    steps = steps_in(folder)
    if not steps:
        raise GPT2JaxError(f"{path}: holds no checkpoint; `gpt2jax train` writes them to RUN/checkpoints")
    return folder, max(steps)


def steps_in(folder: Path) -> list[int]:
    return [int(child.name) for child in folder.iterdir() if child.name.isdecimal() and (child / "state").is_dir()]


def holds_one(path: Path) -> bool:
    """Whether ``path`` means a checkpoint (:func:`find`)."""
    try:
        find(path)
    except GPT2JaxError:
        return False
    return True


def read_meta(path: str | Path) -> Meta:
    """What the checkpoint that ``path`` means (:func:`find`) says of itself.

    Raises:
        DamagedError: it cannot be read, or is not what was saved.
    """
    folder, step = find(path)
    where = folder / str(step)
    with readable(where):
        return Meta.from_json(ocp.JsonCheckpointHandler().restore(where / "meta"), str(where))


def restore_state(path: str | Path, abstract: T) -> T:
    """The whole state in the checkpoint that ``path`` means. Every process of several must call this.

    Args:
        abstract: the state's tree of ShapeDtypeStructs with shardings: each shard is read to where it belongs.

    Raises:
        DamagedError: it cannot be read, or is not what was saved.
        GPT2JaxError: it is a state of another shape.
    """
    folder, step = find(path)
    where = folder / str(step)
    saved = read_meta(where).leaves
    if saved is not None:
        check_same_leaves(saved, abstract, str(where))
    # The handler alone: a checkpointer's processes wait for each other, and long if one of them cannot read its part.
    state, failure = None, None
    try:
        with readable(where):
            state = ocp.StandardCheckpointHandler().restore(where / "state", args=ocp.args.StandardRestore(abstract))
    except DamagedError as error:
        failure = error
    if not all_agree(failure is None):
        raise failure or DamagedError(f"{where}: the checkpoint cannot be read (by another process)")
    if saved is not None:
        compare(saved, digest.of_arrays(digest.paths(state)), str(where))
    return state  # type: ignore[return-value]


@contextlib.contextmanager
def readable(where: str | Path) -> Iterator[None]:
    """Turns what Orbax and tensorstore raise for a damaged checkpoint, which is many things, into one line."""
    listen = ignore_the_rest()
    try:
        yield
        listen()
    except (GPT2JaxError, MemoryError, jax.errors.JaxRuntimeError):  # No fault of the checkpoint's.
        raise
    except Exception as error:
        raise DamagedError(f"{where}: the checkpoint cannot be read ({reason(error)})") from None


def ignore_the_rest() -> Callable[[], None]:
    """When one of Orbax's reads or writes fails, the others are left with nobody to report to, and Python would tell
    of each of them, some later than the error. From here on it does not, until what this returns is called."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not str(found.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
            before(found)

    def listen() -> None:
        sys.unraisablehook = before

    sys.unraisablehook = hook
    return listen


def reason(error: Exception) -> str:
    """The end of the first line, where tensorstore says why after saying of what; without its dump of settings."""
    lines = str(error).split(" [", 1)[0].strip().splitlines()
    return ": ".join(lines[0].split(": ")[-2:]) if lines else type(error).__name__


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
    meta = dataclasses.replace(meta, leaves=describe(state))
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
        raise GPT2JaxError(f"{folder}: cannot be written ({reason(error)})") from None


def concurrent_gb(params: dict[str, Any]) -> int:
    """The least that Orbax can be told to hold at once: it refuses an array larger than that."""
    return max(math.ceil(math.prod(leaf.shape) * leaf.dtype.itemsize / 1e9) for leaf in jax.tree.leaves(params))


def restore_params(path: str | Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parameters alone of the checkpoint that ``path`` means (:func:`find`).

    Args:
        abstract: ShapeDtypeStructs with shardings, in the layout of the parameters. Where a dtype is not the stored
            one, parameters are read one after the other: compared as stored, then rounded.

    Raises:
        DamagedError: it cannot be read, or is not what was saved.
    """
    folder, step = find(path)
    where = folder / str(step)
    saved = read_meta(where).leaves
    wanted = digest.paths({"params": abstract})
    if saved is None or all(path in saved and str(leaf.dtype) == saved[path].dtype for path, leaf in wanted.items()):
        params = _restore(where, abstract, ocp.checkpoint_utils.construct_restore_args(abstract))
        if saved is not None:
            compare(saved, digest.of_arrays(digest.paths({"params": params})), str(where))
        return params

    def one(key: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(key, simple=True, separator="/")
        kept = saved.get(f"params/{name}")
        dtype = leaf.dtype if kept is None else np.dtype(kept.dtype)
        item = _nested(name, jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding))
        restored = _restore(where, item, ocp.checkpoint_utils.construct_restore_args(item))
        [array] = jax.tree.leaves(restored)
        if kept is not None:
            compare(saved, digest.of_arrays({f"params/{name}": array}), str(where))
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, abstract)


def restore_array(path: str | Path, key: str) -> np.ndarray:
    """One parameter, by its path in the table, of the checkpoint that ``path`` means: whole, on the host, as stored.

    Raises:
        DamagedError: it cannot be read, or is not what was saved.
    """
    folder, step = find(path)
    where = folder / str(step)
    saved = read_meta(where).leaves
    item, restore_args = _nested(key, 0), _nested(key, ocp.RestoreArgs(restore_type=np.ndarray))
    [array] = jax.tree.leaves(_restore(where, item, restore_args))
    if saved is not None and f"params/{key}" in saved:
        compare(saved, {f"params/{key}": digest.of_host(array)}, str(where))
    return array


def _nested(key: str, leaf: Any) -> Any:
    for part in reversed(key.split("/")):
        leaf = {part: leaf}
    return leaf


def _restore(folder: Path, item: Any, restore_args: Any) -> dict[str, Any]:
    args = ocp.args.PyTreeRestore(item={"params": item}, restore_args={"params": restore_args}, partial_restore=True)
    with readable(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder / "state", args=args)["params"]
