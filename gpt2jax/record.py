"""What a checkpoint says of itself, and whether what was read is what was saved."""

import dataclasses
import json
import zlib
from typing import Any, Self

import pydantic
import tiktoken

from gpt2jax import digest, tokenizer
from gpt2jax.config import LoraConfig, ModelConfig
from gpt2jax.errors import GPT2JaxError

FORMAT_VERSION = 1


class DamagedError(GPT2JaxError):
    """A checkpoint that cannot be read, or that is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What was saved under one path of a state."""

    shape: tuple[int, ...]
    dtype: str
    digest: int
    """:mod:`gpt2jax.digest`, of the array in the memory that it was saved from."""


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Of a checkpoint that holds adapters (:mod:`gpt2jax.lora`) and not the weights that they belong to."""

    config: LoraConfig
    base: str
    """:func:`fingerprint` of those weights, which lie in the run's folder ``base``."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    step: int
    model: ModelConfig
    encoding: tiktoken.Encoding | None
    """None where nobody knows which vocabulary the tokens are of (weights that came without one)."""
    validation_loss: float | None = None
    """Nats per token at this step, where it was measured."""
    leaves: dict[str, Leaf] | None = None
    """By path, ``/`` between keys. None in checkpoints from before there were digests."""
    adapters: Adapters | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "model": dataclasses.asdict(self.model),
            "tokenizer": None if self.encoding is None else tokenizer.to_spec(self.encoding),
            "validation_loss": self.validation_loss,
        }
        if self.adapters is not None:
            value["adapters"] = dataclasses.asdict(self.adapters)
        if self.leaves is not None:
            leaves = self.leaves.items()
            value["leaves"] = {path: [list(leaf.shape), leaf.dtype, f"{leaf.digest:08x}"] for path, leaf in leaves}
            value["checksum"] = _checksum(value)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Self:
        """The inverse of :meth:`to_json`; ``where`` heads the error lines.

        Raises:
            DamagedError: the value is not what was written.
            GPT2JaxError: another version of gpt2jax wrote it.
        """
        # Each of the two keys vouches for the other: without both, this was written before there were any.
        sound = "leaves" in value and value.get("checksum") == _checksum(value)
        if not sound and ("leaves" in value or "checksum" in value):
            raise DamagedError(f"{where}: the checkpoint is damaged (meta: it is not what was saved)")
        if value.get("format_version") != FORMAT_VERSION:
            raise GPT2JaxError(f"{where}: format_version {value.get('format_version')}: should be {FORMAT_VERSION}")
        model = pydantic.TypeAdapter(ModelConfig).validate_python(value["model"])
        encoding = None if value["tokenizer"] is None else tokenizer.from_spec(value["tokenizer"])
        leaves = None
        if sound:
            saved = value["leaves"].items()
            leaves = {path: Leaf(tuple(shape), dtype, int(text, 16)) for path, (shape, dtype, text) in saved}
        adapters = None
        if "adapters" in value:
            adapters = pydantic.TypeAdapter(Adapters).validate_python(value["adapters"])
        return cls(value["step"], model, encoding, value["validation_loss"], leaves, adapters)


def fingerprint(meta: Meta) -> str:
    """One number, in hexadecimal, for all parameters of a checkpoint."""
    digests = {path: leaf.digest for path, leaf in (meta.leaves or {}).items()}
    return f"{zlib.crc32(json.dumps(digests, sort_keys=True).encode()):08x}"


def _checksum(value: dict[str, Any]) -> int:
    rest = {key: part for key, part in value.items() if key != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def describe(state: Any) -> dict[str, Leaf]:
    """Shape, dtype and digest of every leaf of ``state``. Every process of several must call this."""
    arrays = digest.paths(state)
    digests = digest.of_arrays(arrays)
    return {path: Leaf(leaf.shape, str(leaf.dtype), digests[path]) for path, leaf in arrays.items()}


def check_same_leaves(saved: dict[str, Leaf], abstract: Any, where: str) -> None:
    """Refuse a checkpoint whose leaves are not those that are wanted of it.

    Raises:
        GPT2JaxError: naming the first few.
    """
    wanted = {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in digest.paths(abstract).items()}
    faults = [f"{path} is missing" for path in wanted if path not in saved]
    faults += [f"{path} is unknown" for path in saved if path not in wanted]
    for path, (shape, dtype) in wanted.items():
        if path in saved and (shape, dtype) != (saved[path].shape, saved[path].dtype):
            faults.append(f"{path} is {saved[path].dtype}{list(saved[path].shape)} instead of {dtype}{list(shape)}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise GPT2JaxError(
            f"{where}: a checkpoint of another model, or of other settings of the optimizer:"
            f" {', '.join(faults[:3])}{more}"
        )


def compare(saved: dict[str, Leaf], found: dict[str, int], where: str) -> None:
    """Refuse leaves, of which ``found`` holds the digests by path, that are not what was saved.

    Raises:
        DamagedError: naming each of them.
    """
    wrong = [path for path, value in found.items() if saved[path].digest != value]
    if wrong:
        raise DamagedError(f"{where}: the checkpoint is damaged ({', '.join(wrong)}: not what was saved)")
