"""What shards are to be made of, and how; and whether some that are there are these already."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data import splits
from gpt2jax.data.clean import Cleaning
from gpt2jax.data.meta import Meta, read_meta
from gpt2jax.data.shards import SHARD_TOKENS, Format, TokenBits
from gpt2jax.data.sources import InputFormat, Reading, Source, digest, find_sources
from gpt2jax.data.splits import SplitRule
from gpt2jax.errors import GPT2JaxError

Tokenizer = Literal["gpt2", "bytes", "characters"]


@dataclasses.dataclass(frozen=True)
class Order:
    """Everything that shapes the shards; the arguments of :func:`gpt2jax.data.prepare.prepare`."""

    sources: tuple[str, ...]
    tokenizer: Tokenizer | tiktoken.Encoding = "gpt2"
    format: Format = "nanogpt"
    split: SplitRule = "documents"
    validation_fraction: float = 0.1
    seed: int = 0
    shard_tokens: int = SHARD_TOKENS
    end_of_text: bool = True
    validation_sources: tuple[str, ...] = ()
    validation_tokens: int = 0
    token_bits: TokenBits = 16
    input_format: InputFormat = "auto"
    reading: Reading = dataclasses.field(default_factory=Reading)
    cleaning: Cleaning = dataclasses.field(default_factory=Cleaning)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            GPT2JaxError: naming the setting.
        """
        given = bool(self.validation_sources)
        splits.check(self.split, self.validation_fraction, self.seed, self.validation_tokens, given)
        self.cleaning.check()
        if self.reading.join_rows and (self.cleaning.min_characters or self.cleaning.without_wikipedia):
            name = "min characters" if self.cleaning.min_characters else "without wikipedia"
            raise GPT2JaxError(f"{name}: leaves out documents: should not be given with joined rows, which are one")

    @property
    def holds_out(self) -> bool:
        return bool(self.validation_sources) or self.split == "first" or self.validation_fraction > 0

    @property
    def rule(self) -> splits.SplitUsed:
        return "given" if self.validation_sources else self.split

    def fingerprint(self, found: Sequence[Source], hashes: Sequence[str], apart: int = 0) -> str:
        """sha256 of all of it: contents, not names, so that a corpus may be moved.

        Args:
            apart: how many of ``found``, its last ones, are for validation alone.

        What is as it is by default is not in it: it is the hash of before there were such settings.
        """
        vocabulary = self.tokenizer
        if not isinstance(vocabulary, str):
            vocabulary = json.dumps(tokenizers.to_spec(vocabulary))  # type: ignore[assignment]
        contents = [(hash, source.kind) for source, hash in zip(found, hashes, strict=True)]
        more: dict[str, Any] = {
            "compression": [source.compression for source in found if source.compression],
            "reading": not_default(dataclasses.replace(self.reading, text_key="text")),
            "cleaning": not_default(self.cleaning),
            "validation_sources": apart,
            "validation_tokens": self.validation_tokens,
            "token_bits": self.token_bits - 16,
        }
        arguments = (
            vocabulary, self.format, self.split, self.validation_fraction, self.seed, self.reading.text_key,
            self.shard_tokens, self.end_of_text, *[[name, value] for name, value in more.items() if value],
        )  # fmt: skip
        return hashlib.sha256(json.dumps([contents, *arguments]).encode()).hexdigest()


def not_default(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not as they are by default."""
    plain = {field.name: field.default for field in dataclasses.fields(settings)}
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != plain[name]}


def made_from(meta: Meta, sources: Sequence[str]) -> bool:
    """Whether shards that were prepared in a given encoding are of these sources, wherever these lie by now.

    Raises:
        GPT2JaxError: the sources cannot be read.
    """
    found = find_sources(sources)
    order = Order(
        tuple(sources),
        tokenizer=meta.encoding(),
        format=meta.format,
        split=meta.split,  # type: ignore[arg-type]  # Those with sources of their own for validation are not asked for.
        validation_fraction=meta.validation_fraction,
        seed=meta.seed,
        shard_tokens=meta.shard_tokens,
        end_of_text=meta.end_of_text,
        reading=Reading(meta.text_key),
    )
    return meta.source_sha256 == order.fingerprint(found, [digest(source) for source in found])


def existing(out: Path, fingerprint: str) -> Meta | None:
    """The meta of a folder that is ready already; None if there is nothing in it.

    Raises:
        GPT2JaxError: it holds something else, or is damaged.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise GPT2JaxError(f"{out}: a file is in the way: should be a folder, or nothing yet")
    if not any(out.iterdir()):
        return None
    meta = read_meta(out)
    if meta is None or meta.source_sha256 != fingerprint:
        raise GPT2JaxError(f"{out}: not empty, and not made from these sources and settings: remove it or name another")
    meta.check(out)
    return meta
