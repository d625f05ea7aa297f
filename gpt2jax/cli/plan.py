"""`gpt2jax plan`."""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from gpt2jax import config as settings
from gpt2jax.cli.init_from import in_full, with_sizes_of_weights
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError

HELP = """What a run needs on chips that are not here: memory, exchanges, time of a step, MFU.

usage: gpt2jax plan SETTINGS.yaml --topology NAME [--slices N] [--search N] [--section.key VALUE ...]

The real training step (or, with --verb generate, the writing of one token in every row) is compiled for the topology:
v5e-256 and v5p-512 as Google names slices, v5e:16x16 by the shape of the torus, h100-64 for GPUs in nodes of eight.
TPU programs need libtpu (pip install 'gpt2jax[plan]'), and GPU programs jax's plugin for CUDA (gpt2jax[cuda13]), but no
such chip; without them CPU devices stand in, and it says so.
--search compiles the most promising meshes, micro-batches and remat policies, and ranks those that fit. What does not
fit ends with status 2, and says by how much. --init-from gives the sizes of the model where the settings name none.

examples:
  gpt2jax plan configs/pretrain/gpt2-medium.yaml --topology v5e-256
  gpt2jax plan configs/pretrain/gpt2-xl.yaml --topology v5p:8x8x8 --mesh.data 32 --mesh.fsdp 16
  gpt2jax plan configs/pretrain/gpt2-xl.yaml --topology v5e-16 --search 8
  gpt2jax plan configs/pretrain/gpt2.yaml --topology h100-8 --tokens 10e9
  gpt2jax plan configs/finetune/lora.yaml --init-from gpt2-xl --topology l4-1
  gpt2jax plan configs/pretrain/gpt2-medium.yaml --topology v6e-8 --verb generate --rows 256"""


@dataclasses.dataclass(frozen=True)
class PlanArgs:
    topology: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """The chips: v5e-256, v5p:8x8x8, h100-64."""
    slices: int = 1
    """Slices of that topology, joined by the network of the data centre."""
    verb: Literal["train", "generate"] = "train"
    """What they are to do."""
    search: int = 0
    """Compile so many of the most promising ways to spread the run, and rank them."""
    tokens: float | None = None
    """Tokens to train on; by default those of training.steps."""
    rows: int | None = None
    """With --verb generate: texts written at once, over all chips; by default 32. Memory and time are of the rows that
    they are filled up to: the next power of two, or more where the mesh does not divide it."""
    model: settings.ModelConfig = dataclasses.field(default_factory=settings.ModelConfig)
    mesh: settings.MeshConfig = dataclasses.field(default_factory=settings.MeshConfig)
    optimizer: settings.OptimizerConfig = dataclasses.field(default_factory=settings.OptimizerConfig)
    lora: settings.LoraConfig = dataclasses.field(default_factory=settings.LoraConfig)
    training: settings.TrainingConfig = dataclasses.field(default_factory=settings.TrainingConfig)


def run(args: list[str]) -> int:
    config, named = settings.Config(), frozenset(settings.SIZES)
    args = [in_full(arg) for arg in args]
    if args and not args[0].startswith("-"):
        config = settings.load(args[0])
        named = settings.named_sizes(args.pop(0))
    elif "--help" not in args and "-h" not in args:
        raise GPT2JaxError("plan: needs a settings file (say configs/pretrain/gpt2-medium.yaml)")
    default = PlanArgs(**{name: getattr(config, name) for name in SECTIONS})
    given = parse(PlanArgs, args, "plan", HELP, default=default)
    for name, least in (("slices", 1), ("search", 0), ("rows", 1)):
        if getattr(given, name) is not None and getattr(given, name) < least:
            raise GPT2JaxError(f"{name}: {getattr(given, name)}: should be at least {least}")
    if given.tokens is not None and not given.tokens > 0:
        raise GPT2JaxError(f"tokens: {given.tokens}: should be above 0")
    _check_together(given, args)

    from gpt2jax.plan.topology import has_compiler, parse_topology

    topology = parse_topology(given.topology, given.slices)
    stands_in = not has_compiler(topology)
    start(topology.count if stands_in else 1)
    if stands_in:
        what = "libtpu is not installed (extra plan)" if topology.chip.torus else _NO_CUDA
        print(f"gpt2jax: note: {what}: compiling for CPU devices instead", file=sys.stderr)

    if given.training.init_from and named != frozenset(settings.SIZES):  # As in `gpt2jax train`.
        default = dataclasses.replace(default, model=with_sizes_of_weights(given.training, default.model, named))
        given = parse(PlanArgs, args, "plan", HELP, default=default)
    config = dataclasses.replace(config, **{name: getattr(given, name) for name in SECTIONS})

    from gpt2jax.plan import show
    from gpt2jax.plan.estimate import plan_training
    from gpt2jax.plan.search import search

    if given.verb == "generate":
        from gpt2jax.plan.generating import plan_generating

        best = plan_generating(config, topology, given.rows or 32)
        print(show.report(best, None))
    else:
        if given.search:
            ranked = search(config, topology, given.search, lambda line: print(line, file=sys.stderr, flush=True))
            print(show.table(ranked), end="\n\n")
            best = ranked[0]
        else:
            best = plan_training(config, topology)
        training = config.training
        sequences = training.micro_batches_before(training.steps) * training.batch_size // training.micro_batches
        print(show.report(best, given.tokens or float(sequences * config.model.n_ctx)))
    if not best.fits:
        raise GPT2JaxError(f"topology: {topology.name!r}: {show.fits(best)}")
    return 0


_NO_CUDA = "no compiler for this GPU is installed (extra cuda13; V100: none)"
# What a plan takes of a settings file.
SECTIONS = ("model", "mesh", "optimizer", "lora", "training")
# What a search tries values of.
SEARCHED = ("mesh.data", "mesh.fsdp", "mesh.tensor", "model.remat", "training.micro-batches")


def _check_together(given: PlanArgs, args: list[str]) -> None:
    for name, verb in (("search", "train"), ("tokens", "train"), ("rows", "generate")):
        if getattr(given, name) and given.verb != verb:
            raise GPT2JaxError(f"{name}: goes with --verb {verb}")
    asked = [arg.removeprefix("--").split("=")[0].replace("_", "-") for arg in args if arg.startswith("--")]
    for name in SEARCHED:
        if given.search and name in asked:
            raise GPT2JaxError(f"{name}: is what --search tries: leave it out")
