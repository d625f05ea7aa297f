"""`gpt2jax train`."""

import dataclasses
import os
import re
import signal
from pathlib import Path

from gpt2jax import config as settings
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import write_text

HELP = """Train a model as a settings file says.

usage: gpt2jax train SETTINGS.yaml [--init-from MODEL] [--data TEXT] [--export FORM] [--section.key VALUE ...]
       gpt2jax train --resume RUN [--section.key VALUE ...]
       gpt2jax train SETTINGS.yaml --dry-run [--section.key VALUE ...]

The run's folder (training.run-dir) gets checkpoints, metrics.jsonl, TensorBoard events, loss.png, samples.txt and
report.md. When it holds a checkpoint already, training goes on from there; --resume after a settings file insists on
that, and --resume RUN takes the run's own settings. --init-from (in full --training.init-from) starts from the
weights of a run, of another program's folder or file, or of a released model; settings that name no size of the model
take its sizes. --data (--data.path) is a folder of token shards, or text, which the run prepares itself in the
vocabulary of those weights. --export (--training.export) writes the weights in other programs' forms at the end, into
RUN/export. With --training.patience the run ends when validation gets no better. Ctrl-C stops after the step in hand,
with a checkpoint; so does SIGTERM, with status 0, or the one in GPT2JAX_STOPPED_STATUS, which tells a launcher that
there is more to do. --dry-run compiles the step and says what would lie on each device; it needs no data. Steps whose
loss or gradient is not finite are skipped; --debug-nans ends the run at the first of them instead, and names the
parameter, the layer and the gradient where it begins.

examples:
  gpt2jax train configs/quickstart.yaml
  gpt2jax train configs/quickstart.yaml --optimizer.learning-rate 1e-3 --training.run-dir runs/faster
  gpt2jax train configs/finetune/text.yaml --init-from gpt2-medium --data my_book.txt --export huggingface
  gpt2jax train configs/finetune/lora.yaml --init-from models/355M --data chats.jsonl
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8
  gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 8 --mesh.fsdp 8 --dry-run
  gpt2jax train --resume runs/quickstart --debug-nans
  gpt2jax train --resume runs/quickstart --training.steps 2000"""


def run(args: list[str]) -> int:
    command = " ".join(["gpt2jax train", *args])
    args = [_in_full(arg) for arg in args]
    resume, named = False, True
    if args and not args[0].startswith("-"):
        named = settings.names_sizes(args[0])
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
    dry = "--dry-run" in args
    debug_nans = "--debug-nans" in args
    args = [arg for arg in args if arg not in ("--dry-run", "--debug-nans")]
    given, config = config, parse(settings.Config, args, "train", HELP, default=config)

    stopped_status = _stopped_status()
    start(config.mesh.cpu_devices, config.distributed)
    if config.training.init_from and not named:
        given = dataclasses.replace(given, model=_with_sizes_of_weights(config, given.model))
        config = parse(settings.Config, args, "train", HELP, default=given)
    if dry:
        from gpt2jax.train.dry_run import dry_run

        print(dry_run(config))
        return 0
    import jax

    from gpt2jax import checkpoint
    from gpt2jax.distributed import is_primary
    from gpt2jax.generate.show import under_rules
    from gpt2jax.generate.text import TextModel
    from gpt2jax.train.export import export
    from gpt2jax.train.loop import train as run_training

    if resume:
        checkpoint.find(config.training.run_dir)
    result = run_training(config, command, debug_nans=debug_nans)
    if result.stopped_by is not None:  # A scheduler that asks to stop is obeyed; that is no failure.
        if result.stopped_by == signal.SIGTERM:
            return stopped_status if result.step < config.training.steps and not result.ended_early else 0
        return 130
    run_dir = Path(config.training.run_dir)
    if jax.process_count() > 1:
        if is_primary():
            print(f"curves: {run_dir / 'loss.png'}   report: {run_dir / 'report.md'}")
            weights = run_dir / "checkpoints" / str(result.params_step)
            print(f"samples: gpt2jax generate --model {weights} --unconditional, in one process")
            for form in config.training.export:
                print(f"export: gpt2jax convert {weights} TARGET --to {form}, in one process")
        return 0
    model = TextModel.from_params(result.params, config.model, result.encoding)
    samples = "".join(under_rules(model.write([model.start()], config.sampling, allow_special=True)[0]))
    write_text(run_dir / "samples.txt", samples)
    print(samples, end="")
    if result.validation_loss is not None:
        bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits per byte"
        print(f"validation loss {result.validation_loss:.4f} nats per token{bits}, after step {result.step}")
    print(f"curves: {run_dir / 'loss.png'}   report: {run_dir / 'report.md'}   samples: {run_dir / 'samples.txt'}")
    for line in export(run_dir, result.params_step, config.training.export):
        print(line)
    if config.training.init_from and not config.training.export:
        print(f"export: gpt2jax convert {run_dir / 'checkpoints' / str(result.params_step)} TARGET --to huggingface")
    return 0


def _in_full(arg: str) -> str:
    for short, full in (("init[-_]from", "training.init-from"), ("data", "data.path"), ("export", "training.export")):
        arg = re.sub(rf"^--{short}(?==|$)", f"--{full}", arg)
    return arg


def _with_sizes_of_weights(config: settings.Config, model: settings.ModelConfig) -> settings.ModelConfig:
    """``model`` with the sizes of the weights to start from: as the run's folder recorded them, if it has begun."""
    recorded = Path(config.training.run_dir) / "config.yaml"
    before = settings.load(recorded) if recorded.exists() else None
    if before is not None and before.training.init_from == config.training.init_from:
        found = before.model
    else:
        from gpt2jax.weights.sources import open_weights

        assert config.training.init_from is not None
        found = open_weights(config.training.init_from).config
    return dataclasses.replace(model, **{name: getattr(found, name) for name in settings.SIZES})


def _stopped_status() -> int:
    """Of a run that SIGTERM ended before its last step. All processes of a run end with it, also those that another
    one's signal has stopped: a launcher that starts again what failed can give one of its own."""
    value = os.environ.get("GPT2JAX_STOPPED_STATUS", "0")
    if not value.isdecimal() or int(value) > 255:
        raise GPT2JaxError(f"GPT2JAX_STOPPED_STATUS: {value!r} in the environment: should be a number from 0 to 255")
    return int(value)
