"""`gpt2jax prepare`."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gpt2jax.cli.parse import parse
from gpt2jax.errors import GPT2JaxError

HELP = """Turn text into token shards for training, with a validation split.

A source is a file of text (one document), .jsonl (a document a line), .csv or .parquet (one a row), each also with .gz
or .zst after it; a folder of these; a pattern in quotes; - for standard input; a data set of the Hugging Face hub, as
hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]; or the name `pydoc`: the language reference that every Python carries, so
that there is something to train on without a download. A .jsonl line may also be {"prompt": ..., "completion": ...}:
then completions alone teach, each in a window of its own that begins with its prompt.

A corpus of more than a few megabytes can be stopped and killed at any moment: the same command goes on. Done again, it
says that there is nothing to do.

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax prepare corpus.jsonl --out data/corpus
  gpt2jax prepare book.txt --out data/book --split tail
  gpt2jax prepare books/ --out data/books --format llmc --validation-fraction 0.01
  gpt2jax prepare "web/*.jsonl.zst" --out data/web --split hash --validation-fraction 0.001 --exact-duplicates
  gpt2jax prepare --preset fineweb-10B --out data/fineweb
  gpt2jax prepare input.txt --preset tinyshakespeare --out data/shakespeare
  gpt2jax prepare web/ --out data/web --split hash --shard 3/16
  gpt2jax prepare web/ --out data/web --split hash --merge
  gpt2jax prepare --verify data/web"""


@dataclasses.dataclass(frozen=True)
class PrepareArgs:
    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, patterns, hf:..., - or `pydoc`."""
    out: str | None = None
    """Folder to write; made new."""
    preset: str | None = None
    """A public corpus: its sources where none are named, its settings where none are given, and its licence into
    meta.json. --preset list names them all."""
    tokenizer: Literal["gpt2", "bytes", "characters"] = "gpt2"
    """gpt2: 50,257 byte pairs; bytes: 256 bytes and <|endoftext|>; characters: those of the corpus, as nanoGPT."""
    format: Literal["nanogpt", "llmc", "arrayrecord"] = "nanogpt"
    """Of the shards. nanogpt: <|endoftext|> after each document; llmc: a header, and <|endoftext|> before each;
    arrayrecord: as nanogpt, in records of 8,192 tokens."""
    split: Literal["documents", "hash", "tail", "first"] = "documents"
    """What is held out: documents: one in every 1/validation-fraction; hash: each by its own text, so that none moves
    when more are added; tail: the end of the corpus; first: its first validation-tokens tokens, as llm.c."""
    validation_fraction: float = 0.1
    """0 holds nothing out."""
    validation_tokens: int = 0
    """Of --split first: how many."""
    validation_sources: tuple[str, ...] = ()
    """Sources that are held out whole, instead of a share of the others."""
    seed: int = 0
    """Chooses the validation documents."""
    text_key: str = "text"
    """Where a .jsonl line, or a row, has its text."""
    end_of_text: bool = True
    """Put <|endoftext|> between documents."""
    separator: str = ""
    r"""What stands between the documents of a text file, such as "\n\n"; by default a file is one document.
    With one that ends as it begins, unless it is one character again and again, a file is done in one go."""
    keep_separator: bool = False
    """Leave it at the end of each document but a file's last."""
    join_rows: bool = False
    """The rows of a data set of the hub are pieces of one document."""
    input_format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"
    """Of all files; auto goes by their names, and takes others, and standard input, for text."""
    encoding: str = "utf-8"
    """Of files, by the name that Python has for it. A file in another than utf-8 is done in one go, by one process."""
    shard_tokens: int = 100_000_000
    """Most tokens in a file, but for nanoGPT's format, which has one."""
    token_bits: Literal[16, 32] = 16
    """32 is for vocabularies of more than 65,536 tokens."""
    min_characters: int = 0
    """Leave out shorter documents."""
    exact_duplicates: bool = False
    """Leave out documents that are one before them."""
    near_duplicates: float = 0.0
    """Leave out documents that share about this part of their runs of five words with one before them; 0: none."""
    without_wikipedia: bool = False
    """Leave out documents whose url or source field names Wikipedia, as WebText did."""
    workers: int | None = None
    """Processes that encode; by default one a core."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Do a share of the work, the I-th of N from 0 on, and leave the rest to others: for an array of jobs."""
    merge: bool = False
    """Join what the shares have done."""
    verify: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Check a folder that was prepared, and do nothing else."""


def run(args: list[str]) -> int:
    given = parse(PrepareArgs, args, "prepare", HELP)
    if given.verify is not None:
        return _verify(given.verify)
    if given.preset == "list":
        return _presets()
    provenance = None
    if given.preset is not None:
        given, provenance = _with_preset(given, args)
    if given.out is None:
        raise GPT2JaxError("prepare: --out: missing: should name the folder to write")
    from gpt2jax.data import prepare as preparing
    from gpt2jax.data.clean import Cleaning
    from gpt2jax.data.sources import Reading

    names = ["tokenizer", "format", "split", "validation_fraction", "validation_tokens", "validation_sources", "seed"]
    names += ["end_of_text", "input_format", "shard_tokens", "token_bits"]
    arguments: dict[str, Any] = {name: getattr(given, name) for name in names} | {
        "reading": Reading(
            text_key=given.text_key,
            encoding=_encoding(given.encoding),
            separator=_unescaped(given.separator),
            keep_separator=given.keep_separator,
            join_rows=given.join_rows,
        ),
        "cleaning": Cleaning(
            given.min_characters, given.without_wikipedia, given.exact_duplicates, given.near_duplicates
        ),
    }
    workers = given.workers if given.workers is not None else _cores()
    if workers < 1:
        raise GPT2JaxError(f"--workers: {workers}: should be at least 1")
    if given.shard is not None:
        if given.merge:
            raise GPT2JaxError("--merge: should be given without --shard, once all shares are done")
        order = preparing.Order(given.sources, **arguments)
        preparing.prepare_share(_share(given.shard), order, given.out, workers=workers, say=print)
        return 0
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line)

    meta = preparing.prepare(
        given.sources, given.out, workers=workers, merge=given.merge, provenance=provenance, say=say, **arguments
    )
    for name, split in (("train", meta.train), ("validation", meta.validation)):
        if split is None:
            continue
        print(f"{name}: {split.tokens:,} tokens of {split.documents:,} documents, {split.bytes:,} bytes")
    for reason, count in (meta.dropped or {}).items():
        print(f"left out: {count:,} of {meta.read or 0:,} documents: {reason}")
    if meta.provenance:
        print(f"from {meta.provenance['from']}: {meta.provenance['licence']}")
    wrote = given.out if any("nothing to do" in line for line in said) else f"wrote {given.out}"
    print(f"{wrote}; set data.path to it and model.n_vocab to {meta.n_vocab}")
    return 0


def _verify(folder: str) -> int:
    from gpt2jax.data import verify

    for line in verify.verify(Path(folder)):
        print(line)
    return 0


def _presets() -> int:
    from gpt2jax.data.catalog import presets
    from gpt2jax.tables import show

    show([["preset", "licence", "what it is"], *([one.name, one.licence, one.title] for one in presets().values())])
    return 0


def _with_preset(given: PrepareArgs, args: list[str]) -> tuple[PrepareArgs, dict[str, str]]:
    """What is given, over what the preset says."""
    from gpt2jax.data.catalog import find_preset

    preset = find_preset(given.preset or "")
    chosen = dict(preset.settings)
    if not given.sources:
        if not preset.sources:
            raise GPT2JaxError(f"preset: {preset.name}: needs its file: get {preset.address} and name it")
        chosen |= {"sources": preset.sources, "validation_sources": preset.validation_sources}
    over = parse(PrepareArgs, args, "prepare", HELP, dataclasses.replace(PrepareArgs(), **chosen))
    return over, preset.provenance


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise GPT2JaxError(f"--shard: {text!r}: should be a number and how many there are, such as 3/16")
    return int(found[1]), int(found[2])


def _encoding(name: str) -> str:
    import codecs

    try:
        return codecs.lookup(name).name
    except LookupError:
        raise GPT2JaxError(f"--encoding: {name!r}: unknown: should be one of Python's, such as latin-1") from None


def _unescaped(text: str) -> str:
    r"""``\n``, ``\t`` and ``\\`` as what they stand for: a shell hands on the two characters."""
    return re.sub(r"\\[nt\\]", lambda found: {"n": "\n", "t": "\t", "\\": "\\"}[found[0][1]], text)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
