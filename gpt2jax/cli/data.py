"""`gpt2jax data`: look at shards, and bring them into other formats."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2jax.cli.parse import parse
from gpt2jax.errors import GPT2JaxError, nearest

HELP = """usage: gpt2jax data inspect|convert DIR [options]

Look at a folder of token shards, or write it in another format.

  inspect  a table of what is in it, a picture, and documents of it as text
  convert  shards of nanoGPT's, llm.c's or ArrayRecord's format into another of these

examples:
  gpt2jax data inspect data/web
  gpt2jax data inspect data/web --random 3 --document 17 --split validation
  gpt2jax data convert data/web data/web_llmc --to llmc
  gpt2jax data convert fineweb10B/ data/fineweb --to nanogpt --tokenizer gpt2

`gpt2jax data inspect --help` and `gpt2jax data convert --help` tell more.
"""

CONVERT_HELP = """Write the shards of a folder in another format. Tokens are not made anew: <|endoftext|> moves from the
end of documents to their beginning, or back, so that the result is what preparing the text in that format writes.

examples:
  gpt2jax data convert data/web data/web_llmc --to llmc
  gpt2jax data convert fineweb10B/ data/fineweb --to nanogpt --tokenizer gpt2"""


@dataclasses.dataclass(frozen=True)
class ConvertArgs:
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """Shards that `gpt2jax prepare`, nanoGPT or llm.c wrote."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder to write; made new."""
    to: Literal["nanogpt", "llmc", "arrayrecord"]
    """The format."""
    tokenizer: Literal["auto", "gpt2", "bytes"] = "auto"
    """Of shards without meta.json, which do not say it."""
    shard_tokens: int = 100_000_000
    """Most tokens in a file, but for nanoGPT's format, which has one."""


def run(args: list[str]) -> int:
    what = {"convert": _convert}
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if args else 2
    if args[0] not in what:
        raise GPT2JaxError(f"data: {args[0]!r}: unknown ({nearest(args[0], what)})")
    return what[args[0]](args[1:])


def _convert(args: list[str]) -> int:
    given = parse(ConvertArgs, args, "data convert", CONVERT_HELP)
    from gpt2jax.data import reshape

    counts = reshape.reshape(
        Path(given.folder), Path(given.out), given.to, tokenizer=given.tokenizer, shard_tokens=given.shard_tokens
    )
    for split, count in counts.items():
        print(f"{split}: {count:,} tokens")
    print(f"wrote {given.out}")
    return 0
