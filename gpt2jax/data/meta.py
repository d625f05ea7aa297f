"""meta.json: what is in a folder of shards, and how it came there."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import tiktoken

from gpt2jax import tokenizer
from gpt2jax.data.shards import Format, Shard, Split, open_shard
from gpt2jax.data.splits import SplitUsed
from gpt2jax.errors import GPT2JaxError

FILE_NAME = "meta.json"
FORMAT_VERSION: Literal[1] = 1

Rows = Literal["stream", "documents"]
Count = Annotated[int, pydantic.Field(ge=1)]


@dataclasses.dataclass(frozen=True)
class SplitMeta:
    """One split: its file names in order, and what is in them."""

    files: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    tokens: Count
    """Tokens in all files, end-of-text tokens included."""
    documents: Count
    bytes: Count
    """UTF-8 bytes of the text; divided by ``tokens``, it turns nats per token into bits per byte."""


@dataclasses.dataclass(frozen=True)
class FileMeta:
    """A file beside meta.json, as it was written."""

    bytes: Count
    sha256: str
    tokens: Count | None = None
    """None where it holds none: mask and ends of documents."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """The contents of meta.json. ``train`` and ``validation`` are the splits; the rest is how they were made."""

    tokenizer: dict[str, str]
    """What :func:`gpt2jax.tokenizer.from_spec` takes."""
    n_vocab: Count
    format: Format
    train: SplitMeta
    validation: SplitMeta | None
    """None where nothing was held out."""
    sources: tuple[str, ...]
    text_key: str
    split: SplitUsed
    validation_fraction: float
    seed: int
    end_of_text: bool
    shard_tokens: int
    source_sha256: str
    """Of the sources' contents and all arguments that shape the shards: equal where preparing again changes nothing."""
    rows: Rows = "stream"
    """Whether training windows are cut from all tokens in a row, or each from one document alone (documents.py)."""
    token_bits: Literal[16, 32] = 16
    index: dict[str, FileMeta] | None = None
    """Each file by its name; None in folders of before there was an index."""
    cleaning: dict[str, bool | int | float] | None = None
    """The settings of :class:`gpt2jax.data.clean.Cleaning` that were not left as they are by default."""
    dropped: dict[str, int] | None = None
    """Documents that were left out, by reason."""
    read: int | None = None
    """Documents that were read."""
    provenance: dict[str, str] | None = None
    """Where the data comes from and under what licence, where a preset says so."""
    format_version: Literal[1] = FORMAT_VERSION

    def encoding(self) -> tiktoken.Encoding:
        return tokenizer.from_spec(self.tokenizer)

    def of(self, split: Split) -> SplitMeta | None:
        return self.train if split == "train" else self.validation

    def check(self, folder: Path) -> None:
        """Refuse shards in ``folder`` that are not as they were written.

        Raises:
            GPT2JaxError: as :meth:`open_shards` does.
        """
        for split in get_args(Split):
            if self.of(split) is not None:
                self.open_shards(folder, split)

    def open_shards(self, folder: Path, split: Split) -> list[Shard]:
        """The shards of a split in ``folder``, checked.

        Raises:
            GPT2JaxError: a file is missing, damaged or in another format, or the tokens are not as many as recorded.
        """
        recorded = self.of(split)
        if recorded is None:
            raise GPT2JaxError(f"{folder}: {split}: nothing was held out for it, by its {FILE_NAME}")
        shards = [open_shard(folder / name, self.format, self.token_bits) for name in recorded.files]
        found = sum(shard.tokens for shard in shards)
        if found != recorded.tokens:
            raise GPT2JaxError(f"{folder}: {split}: {found:,} tokens: should be {recorded.tokens:,} by its {FILE_NAME}")
        return shards

    def to_json(self) -> str:
        return json.dumps(_said(dataclasses.asdict(self)), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, where: str) -> "Meta":
        """What :meth:`to_json` wrote; ``where`` (the file) heads every error line.

        Raises:
            GPT2JaxError: not JSON, another version's file, or a key missing or of the wrong type.
        """
        try:
            mapping = json.loads(text)
        except json.JSONDecodeError as error:
            raise GPT2JaxError(f"{where}: not JSON ({error})") from None
        if not isinstance(mapping, dict):
            raise GPT2JaxError(f"{where}: {type(mapping).__name__}: should be an object")
        # Before all else: another version may have other keys.
        version = mapping.get("format_version")
        if version != FORMAT_VERSION:
            raise GPT2JaxError(f"{where}: format_version: {version!r}: should be {FORMAT_VERSION}")
        try:
            return pydantic.TypeAdapter(Meta).validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise GPT2JaxError(f"{where}: {key}: missing") from None
            raise GPT2JaxError(f"{where}: {key}: {first['input']!r}: {first['msg'].removeprefix('Input ')}") from None


def _said(mapping: dict[str, Any]) -> dict[str, Any]:
    """``mapping`` without what has nothing to say: a split that is not there is said, as ever."""
    return {key: value for key, value in mapping.items() if value is not None or key == "validation"}


def read_meta(folder: Path) -> Meta | None:
    """The meta.json of ``folder``, or None where there is none (shards that another program wrote)."""
    path = folder / FILE_NAME
    try:
        return Meta.from_json(path.read_bytes().decode("utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error})") from None
