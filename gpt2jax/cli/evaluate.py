"""`gpt2jax evaluate`."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import pydantic
import tyro

from gpt2jax import config as settings
from gpt2jax import fields
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError
from gpt2jax.tables import show
from gpt2jax.yaml_file import read_yaml

HELP = """Measure a model without training it on the task: the paper's table, and what people measure beside it.

MODEL is what `gpt2jax generate` takes: a run's folder, a checkpoint, another program's folder or file, or the name of a
released model. Tasks are names, groups (paper, more, bias, all) or folders of token shards; --list shows them. Their
files are looked for in --data, in any of the usual releases (as they are, zip, tgz, parquet), and compared with known
hashes; what is missing is said, with where to get it, and the rest is done.

Before it starts, it says how many tokens it will read and how long that will take (--dry-run stops there). One that is
stopped goes on where it was. OUTPUT gets MODEL.json with every figure, its units and its protocol, and, of all models
in it, evaluation.md and evaluation.png.

examples:
  gpt2jax evaluate --list
  gpt2jax evaluate --download lambada wikitext2
  gpt2jax evaluate --model gpt2-medium --tasks paper --data data/evaluation
  gpt2jax evaluate --model gpt2 --tasks lambada wikitext2 --variants all --stride 512
  gpt2jax evaluate --model runs/mine --tasks data/fineweb
  gpt2jax evaluate configs/evaluate.yaml --model gpt2-xl --mesh.fsdp 8 --mesh.data 1"""


@fields.settings("")
class EvaluateArgs:
    evaluation: tyro.conf.OmitArgPrefixes[settings.EvaluationConfig] = dataclasses.field(
        default_factory=settings.EvaluationConfig
    )
    mesh: settings.MeshConfig = dataclasses.field(default_factory=lambda: settings.MeshConfig(data=1))
    distributed: settings.DistributedConfig = dataclasses.field(default_factory=settings.DistributedConfig)
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A run's folder, a checkpoint, another program's folder or file, or the name of a released model."""
    download: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Data sets to get first, by name; without --model nothing else is done."""
    list: bool = False
    """Show the tasks, their files, and which of these are in --data."""
    dry_run: bool = False
    """Say what is there, and what it would take, and stop."""


def run(args: list[str]) -> int:
    default = _read_file(args.pop(0)) if args and args[0].endswith((".yaml", ".yml")) else EvaluateArgs()
    given: EvaluateArgs = parse(EvaluateArgs, args, "evaluate", HELP, default=default)
    if not (given.model or given.download or given.list):
        raise GPT2JaxError("evaluate: needs --model: a run's folder, a checkpoint, or what --help lists beside them")
    if given.download:
        _download(given)
    if given.list:
        if not Path(given.evaluation.data).is_dir():
            print(f"data: {given.evaluation.data}: no such folder")
        show(_listed(Path(given.evaluation.data)))
    return _evaluate(given) if given.model else 0


def _read_file(path: str) -> EvaluateArgs:
    """The options that a settings file gives: those of the evaluation at its top, mesh and distributed as mappings."""
    mapping = read_yaml(path)
    if not isinstance(mapping, dict):
        raise GPT2JaxError(f"{path}: {mapping!r}: should be a mapping of options")
    own = {field.name for field in dataclasses.fields(settings.EvaluationConfig)}
    nested: dict[str, Any] = {str(key): value for key, value in mapping.items() if key not in own}
    nested["evaluation"] = {key: value for key, value in mapping.items() if key in own}
    if isinstance(mapping.get("tasks"), str):
        nested["evaluation"]["tasks"] = [mapping["tasks"]]
    for name in ("mesh", "distributed"):
        if not isinstance(nested.get(name, {}), dict):
            raise GPT2JaxError(f"{path}: {name}: {nested[name]!r}: should be a mapping of keys to values")
    nested["mesh"] = {"data": 1} | nested.get("mesh", {})
    try:
        return pydantic.TypeAdapter(EvaluateArgs).validate_python(nested)
    except pydantic.ValidationError as error:
        line = fields.first_error(error, EvaluateArgs, ())
    except GPT2JaxError as error:
        line = str(error)
    raise GPT2JaxError(f"{path}: {line.removeprefix('evaluation.')}")


def _download(given: EvaluateArgs) -> None:
    from gpt2jax.evaluate.download import download

    for name in given.download:
        for line in download(name, Path(given.evaluation.data)).origins:
            print(line)


def _listed(data: Path) -> list[list[str]]:
    """A line for each task: whether its files are in ``data``, and else how to get them."""
    from gpt2jax.evaluate.catalog import dataset
    from gpt2jax.evaluate.find import Missing, find
    from gpt2jax.evaluate.tasks import TASKS

    lines = [["task", "group", "what", "data"]]
    for task in TASKS:
        states = []
        for name in task.datasets:
            try:
                found = find(name, data) if data.is_dir() else None
            except GPT2JaxError as error:
                states.append(str(error))
                continue
            entry = dataset(name)
            if found is not None and not isinstance(found, Missing):
                states.append(found.where)
            elif entry.public:
                states.append(f"--download {entry.group or name}")
            else:
                states.append("not public")
        lines.append([task.name, task.group, task.title, ", ".join(dict.fromkeys(states)) or "needs no file"])
    return lines


def _evaluate(given: EvaluateArgs) -> int:
    start(given.mesh.cpu_devices, given.distributed)
    from gpt2jax.distributed import is_primary
    from gpt2jax.evaluate import table
    from gpt2jax.evaluate.session import evaluate

    one_device = given.mesh == settings.MeshConfig(data=1)
    found = evaluate(
        str(given.model),
        given.evaluation,
        None if one_device else given.mesh,
        command=shlex.join(["gpt2jax", *sys.argv[1:]]),
        say=print if is_primary() else lambda line: None,
        dry_run=given.dry_run,
    )
    if found is not None and is_primary():
        show(table.lines(found, [name for name in table.NAMES if name not in ("unit", "protocol")]))
        for figure in table.ordered(found.figures):
            print(f"{figure.name}: {figure.protocol}")
        print(f"figures, table and picture: {given.evaluation.output}")
    return 0
