"""`gpt2jax data`: look at shards, and bring them into other formats."""

import contextlib
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


INSPECT_HELP = """Count what is in a folder of token shards: a table, the most frequent tokens, a picture; and documents
of it as text, by their numbers or at random.

A duplicate is a document whose tokens are those of one before it in its split. Bytes per token are of text, without
<|endoftext|>.

examples:
  gpt2jax data inspect data/web
  gpt2jax data inspect data/web --random 3 --document 17 --split validation"""


@dataclasses.dataclass(frozen=True)
class InspectArgs:
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """Shards that `gpt2jax prepare`, nanoGPT or llm.c wrote."""
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = "inspect.png"
    """The picture: lengths of documents, frequencies of tokens, bytes per token, duplicates."""
    split: Literal["train", "validation"] = "train"
    """That documents are shown of."""
    document: tuple[int, ...] = ()
    """Numbers of documents to show, from 0 on."""
    random: int = 0
    """How many documents to show that are drawn."""
    seed: int = 0
    """Which ones these are."""
    characters: int = 1000
    """Most characters that are shown of a document."""
    tokenizer: Literal["auto", "gpt2", "bytes"] = "auto"
    """Of shards without meta.json, which do not say it."""


def run(args: list[str]) -> int:
    what = {"inspect": _inspect, "convert": _convert}
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        for verb in what.values() if args else ():
            print()
            with contextlib.suppress(SystemExit):
                verb(["--help"])
        return 0 if args else 2
    if args[0] not in what:
        raise GPT2JaxError(f"data: {args[0]!r}: unknown ({nearest(args[0], what)})")
    return what[args[0]](args[1:])


def _inspect(args: list[str]) -> int:
    given = parse(InspectArgs, args, "data inspect", INSPECT_HELP)
    if not given.output.endswith(".png"):
        raise GPT2JaxError(f"--output: {given.output}: should end in .png")
    if given.random < 0 or given.seed < 0 or given.characters < 1:
        raise GPT2JaxError("--random, --seed, --characters: should not be negative, and characters at least 1")
    import numpy as np

    from gpt2jax.data import look, show
    from gpt2jax.tables import show as print_table

    looks = look.look(Path(given.folder), given.tokenizer)
    by_name = {one.name: one for one in looks}
    chosen = by_name.get(given.split)
    if chosen is None:
        raise GPT2JaxError(f"--split: {given.split}: {given.folder} has none")
    print_table(show.table(looks))
    if (leaked := show.leaked(looks)) is not None:
        print(f"validation documents that are in training too: {leaked:,}\n")
    print_table(show.frequent(chosen))
    drawn = np.random.default_rng(given.seed).integers(len(chosen.ends_N), size=given.random).tolist()
    for number in (*given.document, *drawn):
        print(f"\n{f' {given.split}, document {number:,} ':=^88}")
        print(chosen.document(number, given.characters))
    show.draw(looks, Path(given.output))
    print(f"\npicture: {given.output}")
    return 0


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
