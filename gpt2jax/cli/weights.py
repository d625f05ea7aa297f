"""`gpt2jax convert` and `gpt2jax download`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2jax.cli.parse import parse, start

CONVERT_HELP = """Write the weights of a model in another form.

SOURCE is what `gpt2jax generate --model` takes; its form is found out. TARGET is written whole or not at all:

  orbax        a checkpoint of ours, to generate with or to start training from
  huggingface  a folder for transformers: safetensors, config, tokenizer, model card
  openai       a folder as OpenAI's: TensorFlow checkpoint, hparams.json, encoder.json, vocab.bpe
  nanogpt      a folder with nanoGPT's ckpt.pt
  llmc         a file for llm.c, ending in .bin; float32 or bfloat16

examples:
  gpt2jax convert runs/quickstart my_model --to huggingface
  gpt2jax convert gpt2-medium weights/medium --to orbax
  gpt2jax convert models/355M medium.bin --to llmc --dtype bfloat16"""

DOWNLOAD_HELP = """Download one of OpenAI's released models into the cache, or say that it is there.

A broken download goes on where it stopped. Sizes, and hashes where they are known, are checked. Settings in the
environment: GPT2JAX_CACHE (folder), GPT2JAX_OFFLINE=1 (no downloads), GPT2JAX_MIRROR_OPENAI and
GPT2JAX_MIRROR_HUGGINGFACE (base addresses).

examples:
  gpt2jax download gpt2-medium
  gpt2jax download 124M --from huggingface
  gpt2jax download gpt2-xl --folder weights --mirror https://mirror.example.org/gpt-2/models"""


@dataclasses.dataclass(frozen=True)
class ConvertArgs:
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A run, a checkpoint, another program's folder or file, or the name of a released model."""
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """Folder to write, for llmc a file; made new."""
    to: Literal["orbax", "huggingface", "openai", "nanogpt", "llmc"]
    """The form to write."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the numbers in the files."""


def convert(args: list[str]) -> int:
    given = parse(ConvertArgs, args, "convert", CONVERT_HELP)
    start()
    from gpt2jax import parameters
    from gpt2jax.weights.convert import convert as convert_weights
    from gpt2jax.weights.sources import open_weights

    weights = open_weights(given.source)
    print(f"read {given.source}: {weights.origin.format}, {parameters.count(weights.config):,} parameters")
    notes = convert_weights(weights, given.target, given.to, given.dtype)
    for note in dict.fromkeys((*weights.origin.all_notes(), *notes)):
        print(f"note: {note}")
    print(f"wrote {given.target}: {given.to}, {given.dtype}")
    return 0


@dataclasses.dataclass(frozen=True)
class DownloadArgs:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """gpt2, gpt2-medium, gpt2-large, gpt2-xl, or 124M, 355M, 774M, 1558M."""
    publisher: Annotated[
        Literal["openai", "huggingface"] | None, tyro.conf.arg(name="from", metavar="{openai,huggingface}")
    ] = None
    """Whose files. By default OpenAI's, whose tensors carry checksums, or what the name says."""
    folder: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Of the cache; by default `weights` in the cache folder that `gpt2jax info` shows."""
    mirror: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Base address to download from."""
    offline: bool = False
    """Only say whether it is there."""


def download(args: list[str]) -> int:
    given = parse(DownloadArgs, args, "download", DOWNLOAD_HELP)
    from gpt2jax.weights.download import download as download_weights

    folder = None if given.folder is None else Path(given.folder)
    offline = True if given.offline else None
    print(download_weights(given.name, given.publisher, folder=folder, mirror=given.mirror, offline=offline))
    return 0
