"""The command line: one thin function per verb. jax is imported only by the verbs that compute."""

import contextlib
import dataclasses
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from gpt2jax import __version__
from gpt2jax import config as settings
from gpt2jax.errors import GPT2JaxError, GPT2JaxWarning, nearest
from gpt2jax.files import write_text

HELP = """usage: gpt2jax VERB [options]

GPT-2 in JAX: prepare text, train, generate, convert weights.

  prepare   text, JSONL or the built-in corpus to token shards
  train     train a model as a settings file says; goes on where a run was stopped
  generate  write text with a trained model
  convert   weights from any form to any other: OpenAI's, Hugging Face's, nanoGPT's, llm.c's, ours
  download  OpenAI's released models
  info      versions, devices and cache folders

examples:
  gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
  gpt2jax train configs/quickstart.yaml
  gpt2jax generate --model runs/quickstart "The assignment statement"
  gpt2jax generate --model gpt2-medium "Once upon a time, far far away,"

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

usage: gpt2jax train SETTINGS.yaml [--init-from MODEL] [--section.key VALUE ...]
       gpt2jax train --resume RUN [--section.key VALUE ...]

The run's folder (training.run-dir) gets checkpoints, metrics.jsonl, TensorBoard events, loss.png, samples.txt and
report.md. When it holds a checkpoint already, training goes on from there; --resume after a settings file insists on
that, and --resume RUN takes the run's own settings. --init-from (in full --training.init-from) starts from the
weights of a run, of another program's folder or file, or of a released model. Ctrl-C stops after the step in hand,
with a checkpoint.

examples:
  gpt2jax train configs/quickstart.yaml
  gpt2jax train configs/quickstart.yaml --optimizer.learning-rate 1e-3 --training.run-dir runs/faster
  gpt2jax train my_settings.yaml --init-from gpt2-medium
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8
  gpt2jax train --resume runs/quickstart --training.steps 2000"""

GENERATE_HELP = """Write text with a trained model.

MODEL is a run's folder, whose own sampling settings are then the defaults, a checkpoint, a folder or file that
OpenAI's, Hugging Face's, nanoGPT's or llm.c's programs wrote, or the name of a released model (gpt2, gpt2-medium,
gpt2-large, gpt2-xl), which is downloaded once. The same prompt, seed and sample index give the same text in any batch.

examples:
  gpt2jax generate --model runs/quickstart "The assignment statement"
  gpt2jax generate --model runs/quickstart "A list is" "A tuple is" --num-samples 2 --temperature 0.7 --top-k 40
  gpt2jax generate --model runs/quickstart --unconditional --num-samples 4
  gpt2jax generate --model runs/quickstart/checkpoints/1000 --interactive"""


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


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for an error of the user's, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    verbs: dict[str, Callable[[list[str]], int]] = {
        "prepare": prepare,
        "train": train,
        "generate": generate,
        "convert": convert,
        "download": download,
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
        with warnings.catch_warnings():
            warnings.simplefilter("always", GPT2JaxWarning)
            warnings.showwarning = cast(Any, _show_warning)
            return verbs[args[0]](args[1:])
    except GPT2JaxError as error:
        if debug:
            raise
        print(f"gpt2jax: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # Of a file that nobody looked at more closely: no permission, say.
        if debug:
            raise
        print(f"gpt2jax: {error.filename or args[0]}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"gpt2jax: warning: {message}", file=sys.stderr)


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
    args = [re.sub(r"^--init[-_]from(?==|$)", "--training.init-from", arg) for arg in args]
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
    model: str | None = None
    """A run's folder, a checkpoint, another program's folder or file, or the name of a released model."""
    unconditional: bool = False
    """Write without a prompt."""
    interactive: bool = False
    """Ask for a prompt, continue it, and again until Ctrl-D."""
    allow_special: bool = False
    """Read <|endoftext|> in a prompt as the special token."""


def generate(args: list[str]) -> int:
    given = _parse(GenerateArgs, args, "generate", GENERATE_HELP)
    if given.model is None:
        raise GPT2JaxError("generate: needs --model: a run's folder, a checkpoint, or what --help lists beside them")
    if [bool(given.prompts), given.unconditional, given.interactive].count(True) != 1:
        raise GPT2JaxError("generate: needs either prompts, --unconditional or --interactive")
    if (Path(given.model) / "config.yaml").exists():  # Again, over the run's own sampling settings.
        own = settings.load(Path(given.model) / "config.yaml").sampling
        given = _parse(GenerateArgs, args, "generate", GENERATE_HELP, default=GenerateArgs(own))

    _start()
    from gpt2jax.generate.text import TextModel

    model = TextModel.load(given.model)
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
    given = _parse(ConvertArgs, args, "convert", CONVERT_HELP)
    _start()
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
    given = _parse(DownloadArgs, args, "download", DOWNLOAD_HELP)
    from gpt2jax.weights.download import download as download_weights

    folder = None if given.folder is None else Path(given.folder)
    offline = True if given.offline else None
    print(download_weights(given.name, given.publisher, folder=folder, mirror=given.mirror, offline=offline))
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
