"""Whether a command of the documentation would be taken: by the command line's own parser, which then stops."""

import argparse
import contextlib
import functools
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gpt2jax import cli
from gpt2jax.cli import evaluate as cli_evaluate
from gpt2jax.cli import generate as cli_generate
from gpt2jax.cli import serve as cli_serve
from gpt2jax.config import load
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import tasks
from gpt2jax.evaluate.catalog import members
from tests.docs.pages import ROOT
from tests.docs.site import module

# Programs whose arguments are theirs to check.
OTHERS = {"cd", "cat", "curl", "docker", "export", "gcloud", "git", "gsutil", "kubectl", "mkdir", "pre-commit"}
OTHERS |= {
    "ruff",
    "scancel",
    "sky",
    "source",
    "squeue",
    "tail",
    "xprof",
    "tensorboard",
    "mypy",
    "shellcheck",
    "jupyter",
}
FOLDERS = ("benchmarks/", "configs/", "docs/", "gpt2jax/", "launch/", "notebooks/", "tests/")
WITH_SETTINGS = ("train", "plan", "generate", "evaluate", "serve")


class Accepted(BaseException):
    """A command has been read to its end; what would follow is its work."""


def commands(text: str) -> list[list[str]]:
    """The words of each command in lines of shell: comments out, continued lines joined, one after ``;`` apart.

    Raises:
        ValueError: a quotation does not end.
    """
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set(";&|"):
                while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.S):
                    words = words[1:]  # A variable for this command.
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found


def check(words: list[str], files: dict[str, str] | None = None) -> str | None:
    """What is wrong with a command, or None.

    Args:
        words: as :func:`commands` gives them.
        files: settings files by their names that the page shows.
    """
    missing = [word for word in words if word.startswith(FOLDERS) and not _exists(word)]
    if missing:
        return f"{missing[0]}: no such file"
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if program == "gpt2jax":
        return _check_gpt2jax(rest, files or {})
    checks: dict[str, Callable[[list[str]], str | None]] = {"make": _check_make, "pip": _check_pip}
    if re.fullmatch(r"python[\d.]*", program):
        return _check_python(rest)
    if program in checks:
        return checks[program](rest)
    if program in ("sbatch", "srun", "sky") or program.endswith(".sh"):
        for at, word in enumerate(rest):
            if word == "gpt2jax":
                return check(rest[at:], files)
            if word.startswith("COMMAND="):
                return check(shlex.split(word.removeprefix("COMMAND=")), files)
        return None
    return None if program in OTHERS else f"{program}: a program that nobody here knows"


def _exists(word: str) -> bool:
    name = word.split("::")[0].rstrip("/")
    return (ROOT / name).exists() if not set("*?[") & set(name) else any(ROOT.glob(name))


def _check_gpt2jax(args: list[str], files: dict[str, str]) -> str | None:
    try:
        with contextlib.ExitStack() as stack:
            for name, instead in _fences().items():
                stack.enter_context(patch(name, instead))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            cli.main(["--debug", *_with_files(args, files)])
    except Accepted:
        return None
    except SystemExit as end:  # --help
        return None if end.code in (0, None) else f"status {end.code}"
    except GPT2JaxError as error:
        return str(error)
    return None


def _fences() -> dict[str, Any]:
    """Where each verb has read its options and begins to work."""

    def stop(*_: object, **__: object) -> None:
        raise Accepted

    def evaluate(given: Any) -> None:
        for name in given.download:
            members(name)
        tasks.select([name for name in given.evaluation.tasks if "/" not in name])
        raise Accepted

    modules = ("train", "generate", "serve", "features", "plan", "weights", "info")
    return {f"gpt2jax.cli.{name}.start": stop for name in modules} | {
        "gpt2jax.cli.evaluate._download": evaluate,
        "gpt2jax.cli.evaluate._evaluate": evaluate,
        "gpt2jax.cli.evaluate._listed": stop,
        "gpt2jax.data.prepare.prepare": stop,
        "gpt2jax.data.prepare.prepare_share": stop,
        "gpt2jax.data.verify.verify": stop,
        "gpt2jax.data.reshape.reshape": stop,
        "gpt2jax.data.look.look": stop,
        "gpt2jax.train.compare.Run.read": stop,
        "gpt2jax.weights.download.download": stop,
    }


def _with_files(args: list[str], files: dict[str, str]) -> list[str]:
    """Settings files that are the reader's own, and runs to go on with, written into the working folder."""
    args = list(args)
    if len(args) > 1 and args[0] in WITH_SETTINGS and args[1].endswith(".yaml") and not args[1].startswith(FOLDERS):
        args[1] = Path(args[1]).name
        Path(args[1]).write_text(files.get(args[1], "{}"), encoding="utf-8")
    if args[:2] == ["train", "--resume"] and len(args) > 2:
        Path(args[2]).mkdir(parents=True, exist_ok=True)
        (Path(args[2]) / "config.yaml").write_text("{}", encoding="utf-8")
    return args


def _check_make(args: list[str]) -> str | None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    unknown = [arg for arg in args if "=" not in arg and arg not in targets]
    return f"make: no target {unknown[0]}" if unknown else None


def _check_pip(args: list[str]) -> str | None:
    """Whether the extras that are installed are there."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    for arg in args:
        for extra in re.findall(r"[\w-]+", "".join(re.findall(r"^(?:\.|gpt2jax)\[(.*)\]$", arg))):
            if extra not in known:
                return f"pip: no extra {extra}"
    return None


def _check_python(args: list[str]) -> str | None:
    if args[:1] == ["-m"]:
        if args[1] == "benchmarks":
            return _check_options(ROOT / "benchmarks" / "__main__.py", args[2:])
        if args[1] == "pip":
            return _check_pip(args[2:])
        with contextlib.suppress(ModuleNotFoundError):  # Of the package that it should be in.
            if importlib.util.find_spec(args[1]):
                return None
        return f"python -m {args[1]}: no such module"
    if args and args[0].startswith("benchmarks/"):
        return _check_options(ROOT / args[0], args[1:])
    return None if args and args[0] in ("-c", "--version") else f"python {' '.join(args)}: what is that?"


def _check_options(script: Path, args: list[str]) -> str | None:
    """Whether a script's own parser takes ``args``; it stops there."""
    if "argparse" not in script.read_text(encoding="utf-8"):
        return f"{script.name}: takes no options" if args else None
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, *_: object) -> None:
        parse(parser, args)
        raise Accepted

    errors = io.StringIO()
    try:
        with (
            patch.object(argparse.ArgumentParser, "parse_args", parsed),
            patch.object(sys, "path", [str(script.parent), str(ROOT), *sys.path]),
            patch.dict(os.environ),
            contextlib.redirect_stderr(errors),
        ):
            runpy.run_path(str(script), run_name="__main__")
    except Accepted:
        return None
    except SystemExit:
        return errors.getvalue().strip().splitlines()[-1]
    return f"{script.name}: does not read its options"


def settings_problem(text: str) -> str | None:
    """What is wrong with YAML that should be settings: of a run, of a job of texts, or of an evaluation."""
    path = Path("shown.yaml")
    path.write_text(text, encoding="utf-8")
    errors = []
    for read in (
        lambda: load(path),
        lambda: cli_generate._read_file(str(path)),
        lambda: cli_evaluate._read_file(str(path)),
        lambda: cli_serve.read_file(str(path)),
    ):
        try:
            read()
        except GPT2JaxError as error:
            errors.append(str(error))
        else:
            return None
    return errors[0]


@functools.cache
def options() -> frozenset[str]:
    """Every option of every verb, and of the benchmarks."""
    reference = module("reference")
    texts = [cli.HELP, *map(reference.help_of, reference.verbs())]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    return frozenset(option for text in texts for option in re.findall(r"--[a-z][\w.-]*", text))
