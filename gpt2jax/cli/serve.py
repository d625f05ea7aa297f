"""`gpt2jax serve`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from gpt2jax import config as settings
from gpt2jax.cli.parse import parse, start
from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.yaml_file import read_yaml

HELP = """Serve a model over HTTP.

MODEL is what it is for `gpt2jax generate`: a run, a checkpoint, weights of another program's, or a released model's
name. Texts of all clients are written together, each as if it were alone. Needs pip install 'gpt2jax[serve]'.

  POST /score            the model card's request: {"input_data": [...], "params": {...}}
  POST /v1/completions   OpenAI's form, streamed or whole; GET /v1/models; POST /v1/embeddings
  GET  /health /ready /metrics; GET /openapi.json; a page to try it at /, another for each route at /docs

Listens on this machine alone unless --host says otherwise. SIGTERM ends it when the texts that were asked for are done.

examples:
  gpt2jax serve --model runs/quickstart
  gpt2jax serve --model gpt2-medium --port 8080 --slots 32
  gpt2jax serve --model gpt2 --host 0.0.0.0 --api-keys keys.txt
  gpt2jax serve configs/serve.yaml --model gpt2-xl --mesh.tensor 4"""

SECTIONS = ("serving", "mesh")


@dataclasses.dataclass(frozen=True)
class ServeArgs:
    serving: tyro.conf.OmitArgPrefixes[settings.ServingConfig] = dataclasses.field(
        default_factory=settings.ServingConfig
    )
    mesh: settings.MeshConfig = dataclasses.field(default_factory=lambda: settings.MeshConfig(data=1))
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A run's folder, a checkpoint, another program's folder or file, or the name of a released model."""


def run(args: list[str]) -> int:
    default = read_file(args.pop(0)) if args and args[0].endswith((".yaml", ".yml")) else ServeArgs()
    given = parse(ServeArgs, args, "serve", HELP, default=default)
    if given.model is None:
        raise GPT2JaxError("serve: --model: should be given, in the settings file or as an option")
    try:
        import fastapi  # noqa: F401
        import fastapi_offline  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise GPT2JaxError(f"serve: needs {error.name}: pip install 'gpt2jax[serve]'") from None
    start(given.mesh.cpu_devices)
    from gpt2jax.generate.text import TextModel
    from gpt2jax.serve import server

    name = given.serving.name or Path(given.model).name or given.model
    print(f"reading {given.model}", file=sys.stderr, flush=True)
    writer = TextModel.load(given.model, given.mesh if _several(given.mesh) else None)
    return server.serve(name, writer, given.serving)


def _several(mesh: settings.MeshConfig) -> bool:
    return mesh != settings.MeshConfig(data=1, cpu_devices=mesh.cpu_devices)


def read_file(path: str) -> ServeArgs:
    """What a settings file says.

    Raises:
        GPT2JaxError: it cannot be read, or has a key or value that there is not.
    """
    from_file, allowed, made = read_yaml(path) or {}, [*SECTIONS, "model"], dict[str, Any]()
    for key in from_file:
        if key not in allowed:
            raise GPT2JaxError(f"{path}: {key}: unknown key ({nearest(str(key), allowed)})")
    if "serving" in from_file:
        made["serving"] = settings.ServingConfig(**from_file["serving"])
    if "mesh" in from_file:
        made["mesh"] = settings.MeshConfig(**{"data": 1} | from_file["mesh"])
    if "model" in from_file:
        if not isinstance(from_file["model"], str):
            raise GPT2JaxError(f"{path}: model: {from_file['model']!r}: should be a path or a name")
        made["model"] = from_file["model"]
    return ServeArgs(**made)
