"""`gpt2jax prepare`."""

import dataclasses
from typing import Literal

import tyro

from gpt2jax.cli.parse import parse

HELP = """Turn text into token shards for training, with a validation split.

A source is a text file (one document), a .jsonl file (a document a line), a folder of these, or the name
`pydoc`: the language reference that every Python carries, so that there is something to train on without a download.
A .jsonl line may also be {"prompt": ..., "completion": ...}: then completions alone teach, each in a window of its
own that begins with its prompt.

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax prepare corpus.jsonl --out data/corpus
  gpt2jax prepare book.txt --out data/book --split tail
  gpt2jax prepare books/ --out data/books --format llmc --validation-fraction 0.01"""


@dataclasses.dataclass(frozen=True)
class PrepareArgs:
    sources: tyro.conf.Positional[tuple[str, ...]]
    """Text or .jsonl files, folders of them, or `pydoc`."""
    out: str
    """Folder to write; made new."""
    tokenizer: Literal["gpt2", "bytes", "characters"] = "gpt2"
    """gpt2: 50,257 byte pairs; bytes: 256 bytes and <|endoftext|>; characters: those of the corpus, as nanoGPT."""
    format: Literal["nanogpt", "llmc"] = "nanogpt"
    """Of the shards. nanogpt: <|endoftext|> after each document; llmc: a header, and <|endoftext|> before each."""
    split: Literal["documents", "tail"] = "documents"
    """Validation is one document in every 1/validation-fraction, or the end of the corpus."""
    validation_fraction: float = 0.1
    """0 holds nothing out."""
    seed: int = 0
    """Chooses the validation documents."""
    text_key: str = "text"
    """Where a .jsonl line has its text."""
    end_of_text: bool = True
    """Put <|endoftext|> between documents."""


def run(args: list[str]) -> int:
    from gpt2jax.data.prepare import prepare as prepare_corpus

    given = parse(PrepareArgs, args, "prepare", HELP)
    meta = prepare_corpus(**vars(given))
    for name, split in (("train", meta.train), ("validation", meta.validation)):
        if split is None:
            continue
        print(f"{name}: {split.tokens:,} tokens of {split.documents:,} documents, {split.bytes:,} bytes")
    print(f"wrote {given.out}; set data.path to it and model.n_vocab to {meta.n_vocab}")
    return 0
