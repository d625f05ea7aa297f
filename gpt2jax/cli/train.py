"""`gpt2jax train`."""

import dataclasses
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2jax import config as settings
from gpt2jax.cli.init_from import in_full, with_sizes_of_weights
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError

if TYPE_CHECKING:  # What imports jax waits until the command line is read.
    from gpt2jax.train.loop import Result

HELP = """Train a model as a settings file says.

usage: gpt2jax train SETTINGS.yaml [--init-from MODEL] [--data TEXT] [--export FORM] [--section.key VALUE ...]
       gpt2jax train --resume RUN [--section.key VALUE ...]
       gpt2jax train SETTINGS.yaml --dry-run [--section.key VALUE ...]

The run's folder (training.run-dir) gets checkpoints, metrics.jsonl, TensorBoard events, loss.png, samples.txt and
report.md; what several runs came to, `gpt2jax report` compares. When it holds a checkpoint already, training goes
on from there; --resume after a settings file insists on that, and --resume RUN takes the run's own settings.
--init-from (in full --training.init-from) starts from the weights of a run, of another program's folder or file, or
of a released model; settings that name no size of the model take its sizes. --data (--data.path) is a folder of token
shards, or text, which the run prepares itself in the vocabulary of those weights. --export (--training.export) writes
the weights in other programs' forms at the end, into RUN/export. With --training.patience the run ends when validation
gets no better. Ctrl-C stops after the step in hand, with a checkpoint; so does SIGTERM, with status 0, or the one in
GPT2JAX_STOPPED_STATUS, which tells a launcher that there is more to do. --dry-run compiles the step and says what
would lie on each device; it needs no data. Steps whose loss or gradient is not finite are skipped; --debug-nans ends
the run at the first of them instead, and names the parameter, the layer and the gradient where it begins.
--profile 10:13 traces steps 10 to 12, numbered as the log does (the end is not in it, as in Python), into RUN/profile.

examples:
  gpt2jax train configs/quickstart.yaml
  gpt2jax train configs/quickstart.yaml --optimizer.learning-rate 1e-3 --training.run-dir runs/faster
  gpt2jax train configs/finetune/text.yaml --init-from gpt2-medium --data my_book.txt --export huggingface
  gpt2jax train configs/finetune/lora.yaml --init-from models/355M --data chats.jsonl
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8 --dry-run
  gpt2jax train configs/quickstart.yaml --profile 100:103
  gpt2jax train --resume runs/quickstart --debug-nans
  gpt2jax train --resume runs/quickstart --training.steps 2000"""


def run(args: list[str]) -> int:
    command = " ".join(["gpt2jax train", *args])
    args = [in_full(arg) for arg in args]
    resume, named = False, frozenset(settings.SIZES)
    if args and not args[0].startswith("-"):
        config = settings.load(args[0])
        named = settings.named_sizes(args.pop(0))
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
    dry = "--dry-run" in args
    debug_nans = "--debug-nans" in args
    args = [arg for arg in args if arg not in ("--dry-run", "--debug-nans")]
    profile, args = _take_profile(args)
    if dry and profile:
        raise GPT2JaxError("--profile: goes with training: --dry-run runs no step")
    given, config = config, parse(settings.Config, args, "train", HELP, default=config)

    stopped_status = _stopped_status()
    start(config.mesh.cpu_devices, config.distributed, keep_memory=not dry)
    if config.training.init_from and named != frozenset(settings.SIZES):
        given = dataclasses.replace(given, model=with_sizes_of_weights(config.training, given.model, named))
        config = parse(settings.Config, args, "train", HELP, default=given)
    if dry:
        from gpt2jax.train.dry_run import dry_run

        print(dry_run(config))
        return 0
    import jax
    import tiktoken

    from gpt2jax import checkpoint
    from gpt2jax.distributed import is_primary
    from gpt2jax.generate.show import under_rules
    from gpt2jax.generate.text import TextModel
    from gpt2jax.parameters import Params
    from gpt2jax.partition import Partition
    from gpt2jax.train.export import export
    from gpt2jax.train.lock import sole_owner
    from gpt2jax.train.loop import train as run_training

    def draw(
        params: Params, encoding: tiktoken.Encoding, place: Partition | None, prompts: list[str]
    ) -> tuple[str, str]:
        model, sampling = TextModel.from_params(params, config.model, encoding, place), config.sampling
        if prompts:  # Each is answered once, a long one by its end; an empty one is <|endoftext|>.
            sampling = dataclasses.replace(sampling, num_samples=1, truncate="left")
            answers = model.write(prompts, sampling, allow_special=True)
            texts = [prompt + answer for prompt, [answer] in zip(prompts, answers, strict=True)]
        else:
            texts = model.write([model.start()], sampling, allow_special=True)[0]
        return "".join(under_rules(texts)), texts[0]

    if resume:
        checkpoint.find(config.training.run_dir)
    result = run_training(config, command, debug_nans=debug_nans, draw=draw, profile=profile)
    if result.stopped_by is not None:  # A scheduler that asks to stop is obeyed; that is no failure.
        if result.stopped_by == signal.SIGTERM:
            return stopped_status
        return 130
    if is_primary():
        _say_end(config, result)
    if jax.process_count() == 1:
        run_dir = Path(config.training.run_dir)
        with sole_owner(run_dir):
            for line in export(run_dir, result.params_step, config.training.export):
                print(line)
    return 0


def _say_end(config: settings.Config, result: "Result") -> None:
    import jax

    training = config.training
    run_dir = Path(training.run_dir)
    weights = run_dir / "checkpoints" / str(result.params_step)
    if result.validation_loss is not None:
        bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits per byte"
        print(f"validation loss {result.validation_loss:.4f} nats per token{bits}, after step {result.step}")
    several = jax.process_count() > 1
    sampled = training.sample_interval or not several
    samples = f"   samples: {run_dir / 'samples.txt'}" if sampled else ""
    print(f"curves: {run_dir / 'loss.png'}   report: {run_dir / 'report.md'}{samples}")
    if not sampled:
        print(
            "no samples: several processes write them with training.sample_interval; or now: gpt2jax generate"
            f" --model {weights} --unconditional, in one process"
        )
    for form in training.export if several else ():
        print(f"no export: several processes write none; now: gpt2jax convert {weights} TARGET --to {form}, in one")
    if training.init_from and not training.export:
        print(f"export: gpt2jax convert {weights} TARGET --to huggingface")


def _take_profile(args: list[str]) -> tuple[range | None, list[str]]:
    """The steps that ``--profile FIRST:END`` names, and the arguments without it."""
    rest, given = [], None
    words = iter(args)
    for word in words:
        name, _, value = word.partition("=")
        if name == "--profile":
            given = value or next(words, "")
        else:
            rest.append(word)
    if given is None:
        return None, rest
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", given)
    steps = range(int(found[1]), int(found[2])) if found else range(0)
    if not steps or not steps.start:
        raise GPT2JaxError(f"--profile: {given!r}: should be FIRST:END, as in 10:13 for the steps 10, 11 and 12")
    return steps, rest


def _stopped_status() -> int:
    """Of a run that SIGTERM ended before its last step. All processes of a run end with it, also those that another
    one's signal has stopped: a launcher that starts again what failed can give one of its own."""
    value = os.environ.get("GPT2JAX_STOPPED_STATUS", "0")
    if not value.isdecimal() or int(value) > 255:
        raise GPT2JaxError(f"GPT2JAX_STOPPED_STATUS: {value!r} in the environment: should be a number from 0 to 255")
    return int(value)
