"""OpenAI's four released models: their names, their files, and where these are."""

import dataclasses
from typing import Literal

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.presets import ALIASES, PRESETS
from gpt2jax.weights.vocabulary import ENCODER_SHA256

Publisher = Literal["openai", "huggingface"]

# Hugging Face's name of the account that holds the models.
HUGGINGFACE_ACCOUNT = "openai-community/"

BASES: dict[Publisher, str] = {
    "openai": "https://openaipublic.blob.core.windows.net/gpt-2/models",
    "huggingface": "https://huggingface.co",
}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file of a model and what is known of it."""

    name: str
    path: str
    """Below the publisher's base address."""
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


_FOLDERS = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
_DATA_BYTES = {"gpt2": 497_759_232, "gpt2-medium": 1_419_292_672, "gpt2-large": 3_096_120_320, "gpt2-xl": 6_230_444_800}
_INDEX_BYTES = {"gpt2": 5_215, "gpt2-medium": 10_399}
_HPARAMS_BYTES = {"gpt2": 90, "gpt2-medium": 91}
_DATA_MD5 = {"gpt2": "f48b9cf1a525a603be52258f69bf9162"}
_SAFETENSORS_BYTES = {"gpt2": 548_105_171}
_SAFETENSORS_SHA256 = {"gpt2": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"}
_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


def resolve(name: str) -> tuple[str, Publisher | None] | None:
    """The preset that ``name`` means, and the publisher where the name tells it; None when it is no model's name.

    Names are the presets', their aliases (``355M``, ``345M``) and Hugging Face's (``openai-community/gpt2-medium``).
    """
    publisher: Publisher | None = "huggingface" if name.startswith(HUGGINGFACE_ACCOUNT) else None
    name = name.removeprefix(HUGGINGFACE_ACCOUNT)
    name = ALIASES.get(name, name)
    return (name, publisher) if name in PRESETS else None


def preset_of(name: str) -> tuple[str, Publisher | None]:
    """:func:`resolve`, refusing what is no model's name."""
    found = resolve(name)
    if found is None:
        raise GPT2JaxError(f"model: {name!r}: unknown ({nearest(name, [*PRESETS, *ALIASES])})")
    return found


def files(preset: str, publisher: Publisher) -> list[RemoteFile]:
    """The files of a model, small ones first."""
    if publisher == "huggingface":
        root = f"{HUGGINGFACE_ACCOUNT}{preset}/resolve/main"
        return [
            RemoteFile("config.json", f"{root}/config.json"),
            RemoteFile("generation_config.json", f"{root}/generation_config.json"),
            RemoteFile(
                "model.safetensors",
                f"{root}/model.safetensors",
                _SAFETENSORS_BYTES.get(preset),
                _SAFETENSORS_SHA256.get(preset),
            ),
        ]
    root, data = _FOLDERS[preset], "model.ckpt.data-00000-of-00001"
    return [
        RemoteFile("checkpoint", f"{root}/checkpoint", 77),
        RemoteFile("hparams.json", f"{root}/hparams.json", _HPARAMS_BYTES.get(preset)),
        RemoteFile("encoder.json", f"{root}/encoder.json", 1_042_301, ENCODER_SHA256),
        RemoteFile("vocab.bpe", f"{root}/vocab.bpe", 456_318, _MERGES_SHA256),
        RemoteFile("model.ckpt.index", f"{root}/model.ckpt.index", _INDEX_BYTES.get(preset)),
        RemoteFile(data, f"{root}/{data}", _DATA_BYTES[preset], md5=_DATA_MD5.get(preset)),
    ]
