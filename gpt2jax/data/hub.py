"""Data sets of the Hugging Face hub, read as a stream: ``hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]``.

They need the package ``datasets`` (``pip install 'gpt2jax[hub]'``). Without a revision the newest one is looked up
once, and stands in the name from then on, so that what is resumed is what was begun.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpt2jax.errors import GPT2JaxError

PREFIX = "hf:"
_FORM = re.compile(r"hf:(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w.-]+))?(#(?P<split>\S+))?")


class Name(NamedTuple):
    """A name, apart."""

    name: str
    config: str | None
    revision: str | None
    split: str

    def __str__(self) -> str:
        config, revision = (
            f"{mark}{part}" if part else "" for mark, part in ((":", self.config), ("@", self.revision))
        )
        return f"{PREFIX}{self.name}{config}{revision}#{self.split}"


def parse(name: str) -> Name:
    """The parts of a name.

    Raises:
        GPT2JaxError: it is not of this form.
    """
    found = _FORM.fullmatch(name)
    if found is None:
        raise GPT2JaxError(f"{name}: should be {PREFIX}OWNER/NAME, and after it :CONFIG, @REVISION, #SPLIT")
    return Name(found["name"], found["config"], found["revision"], found["split"] or "train")


def pinned(name: str) -> str:
    """``name`` with the revision that the hub has now, if it names none.

    Raises:
        GPT2JaxError: the hub cannot be asked, or knows no such data set.
    """
    parts = parse(name)
    if parts.revision is None:
        _datasets()
        from huggingface_hub import HfApi

        try:
            parts = parts._replace(revision=HfApi().dataset_info(parts.name).sha)
        except Exception as error:  # Of the network, the hub or the name: it has a class for each.
            raise GPT2JaxError(f"{name}: cannot be asked for ({_first_line(error)})") from None
    return str(parts)


def shards(name: str) -> int:
    """How many files a data set streams from: each can be read by itself."""
    return int(_open(name).num_shards)


def rows(name: str, shard: int) -> Iterator[dict[str, Any]]:
    """The rows of one of the files, in order."""
    data = _open(name)
    try:
        # Contiguous: all files one after the other are the data set in its own order.
        yield from data.shard(num_shards=data.num_shards, index=shard, contiguous=True)
    except OSError as error:
        raise GPT2JaxError(f"{name}: cannot be read ({_first_line(error)})") from None


def _open(name: str) -> Any:
    parts = parse(name)
    try:
        return _datasets().load_dataset(
            parts.name, parts.config, split=parts.split, revision=parts.revision, streaming=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise GPT2JaxError(f"{name}: cannot be opened ({_first_line(error)})") from None


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise GPT2JaxError(
            f"{PREFIX}: needs the package datasets: pip install 'gpt2jax[hub]', or name files of your own"
        ) from None
    return datasets


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
