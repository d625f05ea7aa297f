"""The command line: one thin function per verb. jax is imported only by the verbs that compute."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from gpt2jax import __version__
from gpt2jax import config as settings
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.files import write_text

HELP = """usage: gpt2jax VERB [options]

GPT-2 in JAX: prepare text, train, generate.

  prepare   text, JSONL or the built-in corpus to token shards
  train     train a model as a settings file says; goes on where a run was stopped
  generate  write text with a trained model
  info      versions, devices and cache folders

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax train configs/quickstart.yaml
  gpt2jax generate --run runs/quickstart "The assignment statement"

`gpt2jax VERB --help` tells more. Every verb takes --debug: show the traceback of an error.
"""

PREPARE_HELP = """Turn text into token shards for training, with a validation split.

A source is a text file (one document), a .jsonl file (a document a line), a folder of these, or the name
`pydoc`: the language reference that every Python carries, so that there is something to train on without a download.

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax prepare corpus.jsonl --out data/corpus
  gpt2jax prepare book.txt --out data/book --split tail
  gpt2jax prepare books/ --out data/books --format llmc --validation-fraction 0.01"""

TRAIN_HELP = """Train a model as a settings file says.

usage: gpt2jax train SETTINGS.yaml [--section.key VALUE ...]
       gpt2jax train --resume RUN [--section.key VALUE ...]

The run's folder (training.run-dir) gets checkpoints, metrics.jsonl, TensorBoard events, loss.png, samples.txt and
report.md. When it holds a checkpoint already, training goes on from there; --resume after a settings file insists on
that, and --resume RUN takes the run's own settings. Ctrl-C stops after the step in hand, with a checkpoint.

examples:
  gpt2jax train configs/quickstart.yaml
  gpt2jax train configs/quickstart.yaml --optimizer.learning-rate 1e-3 --training.run-dir runs/faster
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8
  gpt2jax train --resume runs/quickstart --training.steps 2000"""

GENERATE_HELP = """Write text with a trained model.

A run's own sampling settings are the defaults. The same prompt, seed and sample index give the same text in any batch.

examples:
  gpt2jax generate --run runs/quickstart "The assignment statement"
  gpt2jax generate --run runs/quickstart "A list is" "A tuple is" --num-samples 2 --temperature 0.7 --top-k 40
  gpt2jax generate --run runs/quickstart --unconditional --num-samples 4
  gpt2jax generate --checkpoint runs/quickstart/checkpoints/1000 --interactive"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for an error of the user's, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    verbs: dict[str, Callable[[list[str]], int]] = {
        "prepare": prepare,
        "train": train,
        "generate": generate,
        "info": info,
    }
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"gpt2jax {__version__}")
        return 0
    try:
        if args[0] not in verbs:
            raise GPT2JaxError(f"verb: {args[0]!r}: unknown ({nearest(args[0], verbs)})")
        return verbs[args[0]](args[1:])
    except GPT2JaxError as error:
        if debug:
            raise
        print(f"gpt2jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


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
    seed: int = 0
    """Chooses the validation documents."""
    text_key: str = "text"
    """Where a .jsonl line has its text."""
    end_of_text: bool = True
    """Put <|endoftext|> between documents."""


def prepare(args: list[str]) -> int:
    from gpt2jax.data.prepare import prepare as prepare_corpus

    given = _parse(PrepareArgs, args, "prepare", PREPARE_HELP)
    meta = prepare_corpus(**vars(given))
    for name, split in (("train", meta.train), ("validation", meta.validation)):
        print(f"{name}: {split.tokens:,} tokens of {split.documents:,} documents, {split.bytes:,} bytes")
    print(f"wrote {given.out}; set data.path to it and model.n_vocab to {meta.n_vocab}")
    return 0


def train(args: list[str]) -> int:
    command = " ".join(["gpt2jax train", *args])
    resume = False
    if args and not args[0].startswith("-"):
        config = settings.load(args.pop(0))
        if "--resume" in args:
            args.remove("--resume")
            resume = True
    elif args[:1] == ["--resume"] and len(args) > 1 and not args[1].startswith("-"):
        config = settings.load(Path(args[1]) / "config.yaml")
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, run_dir=args[1]))
        args, resume = args[2:], True
    elif "--help" in args or "-h" in args:
        config = settings.Config()
    else:
        raise GPT2JaxError("train: needs a settings file (say configs/quickstart.yaml) or --resume RUN")
    config = _parse(settings.Config, args, "train", TRAIN_HELP, default=config)

    _start(config.mesh.cpu_devices)
    from gpt2jax import checkpoint
    from gpt2jax.generate.text import TextModel
    from gpt2jax.train.loop import train as run_training

    if resume:
        checkpoint.find(config.training.run_dir)
    result = run_training(config, command)
    if result.interrupted:
        return 130
    run_dir = Path(config.training.run_dir)
    model = TextModel.from_params(result.params, config.model, result.encoding)
    samples = _numbered(model.write([model.start()], config.sampling, allow_special=True)[0])
    write_text(run_dir / "samples.txt", samples)
    print(samples)
    bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits per byte"
    print(f"validation loss {result.validation_loss:.4f} nats per token{bits}, after step {result.step}")
    print(f"curves: {run_dir / 'loss.png'}   report: {run_dir / 'report.md'}   samples: {run_dir / 'samples.txt'}")
    return 0


@dataclasses.dataclass(frozen=True)
class GenerateArgs:
    sampling: tyro.conf.OmitArgPrefixes[settings.SamplingConfig] = dataclasses.field(
        default_factory=settings.SamplingConfig
    )
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue."""
    run: str | None = None
    """A run's folder: its newest checkpoint writes."""
    checkpoint: str | None = None
    """One checkpoint: RUN/checkpoints/STEP."""
    unconditional: bool = False
    """Write without a prompt."""
    interactive: bool = False
    """Ask for a prompt, continue it, and again until Ctrl-D."""
    allow_special: bool = False
    """Read <|endoftext|> in a prompt as the special token."""


def generate(args: list[str]) -> int:
    given = _parse(GenerateArgs, args, "generate", GENERATE_HELP)
    source = given.run or given.checkpoint
    if source is None or (given.run and given.checkpoint):
        raise GPT2JaxError("generate: needs either --run RUN or --checkpoint RUN/checkpoints/STEP")
    if [bool(given.prompts), given.unconditional, given.interactive].count(True) != 1:
        raise GPT2JaxError("generate: needs either prompts, --unconditional or --interactive")
    if given.run and (Path(given.run) / "config.yaml").exists():  # Again, over the run's own sampling settings.
        own = settings.load(Path(given.run) / "config.yaml").sampling
        given = _parse(GenerateArgs, args, "generate", GENERATE_HELP, default=GenerateArgs(own))

    _start()
    from gpt2jax.generate.text import TextModel

    model = TextModel.load(source)
    if given.interactive:
        while True:
            try:
                prompt = input("prompt> ")
            except EOFError:
                print()
                return 0
            try:
                [texts] = model.write([prompt], given.sampling, allow_special=given.allow_special)
            except GPT2JaxError as error:
                print(f"gpt2jax: {error}", file=sys.stderr)
                continue
            print(_numbered([prompt + text for text in texts]))
    if given.unconditional:
        [texts] = model.write([model.start()], given.sampling, allow_special=True)
        print(_numbered(texts))
        return 0
    written = model.write(list(given.prompts), given.sampling, allow_special=given.allow_special)
    print(_numbered([prompt + text for prompt, texts in zip(given.prompts, written, strict=True) for text in texts]))
    return 0


def info(args: list[str]) -> int:
    _parse(_NoArgs, args, "info", "Print versions, devices and cache folders.\n\nexample:\n  gpt2jax info")
    _start()
    from gpt2jax import runtime

    found = runtime.describe()
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")
    return 0


@dataclasses.dataclass(frozen=True)
class _NoArgs:
    pass


def _start(cpu_devices: int = 0) -> None:
    """Prepare jax; what it reads from the environment must stand there before it is imported."""
    if cpu_devices:
        os.environ["NPROC"] = "64"  # Why: gpt2jax.runtime.start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No XLA chatter between our lines.
    from gpt2jax import runtime

    runtime.start(cpu_devices)


def _numbered(texts: list[str]) -> str:
    """One text as it is, several under numbered rules as OpenAI's program prints them."""
    if len(texts) == 1:
        return texts[0]
    rule = "=" * 40
    return "\n".join(f"{rule} SAMPLE {number} {rule}\n{text}" for number, text in enumerate(texts, 1))


def _parse(cls: Any, args: list[str], verb: str, description: str, default: Any = None) -> Any:
    """``args`` as an instance of ``cls``; what tyro finds wrong becomes one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            kwargs = {} if default is None else {"default": default}
            return tyro.cli(cls, args=args, prog=f"gpt2jax {verb}", description=description, **kwargs)
    except SystemExit as end:
        if end.code in (0, None):
            raise
    raise GPT2JaxError(f"{verb}: {_one_line(errors.getvalue())}")


def _one_line(report: str) -> str:
    """The message of tyro's report, and the nearest option when it knows one.

    The report is a title and blocks between rules, in a box where the terminal can draw one; the message is the first
    block, and options to try instead follow as lines that start with ``--``.
    """
    report = re.sub(r"\x1b\[[0-9;]*m", "", report)
    lines = [line.strip("│ ") for line in report.splitlines() if line and line[0] not in "╭╰"]
    blocks: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= {"-", "─"} and len(line) > 4:
            blocks.append([])
        elif line:
            blocks[-1].append(line)
    title = 0 if "╭" in report else 1
    hints = [line.split()[0] for block in blocks[title + 1 :] for line in block if line.startswith("--")]
    message = " ".join(blocks[title])
    return f"{message} (nearest: {hints[0]})" if message.startswith("Unrecognized") and hints else message
