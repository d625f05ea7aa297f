"""Pages that are made from the code: every setting, every command, every public name."""

import contextlib
import dataclasses
import io
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import griffe
from pydantic.fields import FieldInfo

from gpt2jax import cli
from gpt2jax.config import Config, EvaluationConfig, ServingConfig

ROOT = Path(__file__).parents[2]
COLUMNS = 100


class Room(NamedTuple):
    """A line of the table "All rooms" in docs/architecture.md."""

    name: str
    modules: list[str]
    holds: str

    @property
    def page(self) -> str:
        return f"reference/api/{self.name}.md"

    def text(self) -> str:
        """A heading, and each module for mkdocstrings to fill in."""
        head = f"# {self.name}\n\n{self.holds[:1].upper()}{self.holds[1:]}.\n"
        return "\n".join([head, *(f"::: {module}\n" for module in self.modules)])


def rooms() -> list[Room]:
    """The rooms of the house, from the top down, but for the command line's, whose page is :func:`commands`.

    Raises:
        ValueError: the table and the package differ.
    """
    package = ROOT / "gpt2jax"
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("\n## All rooms\n")[2].partition("\n## ")[0]
    found = [Room("gpt2jax", ["gpt2jax"], "The way in for weights")]
    seen = {package / "__init__.py", package / "__main__.py"}
    for names, holds in re.findall(r"^\| \d \| (.*?) \| (.*?) \|$", table, re.M):
        files: list[Path] = []
        for name in re.findall(r"`([\w/.]+)`", names):
            path = package / name
            files += sorted(path.rglob("*.py")) if name.endswith("/") else [path]
        seen |= set(files)
        first = re.sub(r"\W.*", "", names.strip("`"))
        if first != "cli":
            found.append(Room(first, [_module(path) for path in files if path.stat().st_size], holds))
    differ = seen ^ set(package.rglob("*.py"))
    if differ:
        raise ValueError(
            f"docs/architecture.md, All rooms: {', '.join(map(_module, sorted(differ)))}: only there, or missing there"
        )
    return found


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def settings() -> str:
    """A page with a table for each section: setting, type, default, meaning.

    Raises:
        ValueError: a setting says nothing of itself.
    """
    lines = [
        "# Every setting",
        "",
        "A settings file is YAML with these sections; on the command line a setting is `--section.key VALUE`, with `-`",
        "or `_` between words (`gpt2jax generate` and `gpt2jax evaluate` take those of `sampling` and `evaluation`",
        "without the section). A wrong name, type or value ends in one line that says what is allowed.",
        "",
    ]
    for field in dataclasses.fields(Config):
        lines += _section(field.name, typing.cast(type, field.type))
    lines += _section("evaluation", EvaluationConfig)
    lines += _section("serving", ServingConfig)
    return "\n".join(lines)


def _section(name: str, section: type) -> Iterator[str]:
    path = ROOT.joinpath(*section.__module__.split(".")).with_suffix(".py")
    documented = griffe.visit(section.__module__, path, path.read_text(encoding="utf-8"))[section.__name__]
    yield f"## {name}\n\n{' '.join(documented.docstring.value.split())}\n"
    yield "| setting | type | default | what |\n|---|---|---|---|"
    for key, info in section.__pydantic_fields__.items():  # type: ignore[attr-defined]
        docstring = documented[key].docstring
        if docstring is None:
            raise ValueError(f"{name}.{key}: has no docstring")
        default = info.get_default(call_default_factory=True)
        what = " ".join(docstring.value.split())
        cells = [f"`{key}`", kind(info), f"`{_yaml(default)}`", what]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def kind(info: FieldInfo) -> str:
    """A field's type and bounds in words: ``whole number, at least 1``."""
    return _kind(info.annotation, list(info.metadata))


def _kind(annotation: Any, metadata: list[Any]) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0], [*args[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return " or ".join([*(_kind(arg, metadata) for arg in inner), *(["null"] if len(inner) < len(args) else [])])
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        return f"list of: {_kind(args[0], [])}"
    if origin is dict:
        return f"mapping of {_kind(args[0], [])} to {_kind(args[1], [])}"
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
    bounds = {}
    for item in metadata:
        for constraint in item.metadata if isinstance(item, FieldInfo) else [item]:
            for bound in ("ge", "gt", "le", "lt"):
                if hasattr(constraint, bound):
                    bounds[bound] = f"{getattr(constraint, bound):,g}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join([names[annotation], *(f"{words[bound]} {value}" for bound, value in bounds.items())])


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value) if value != "" else '""'


def verbs() -> list[str]:
    """The command line's verbs, as its own help lists them."""
    return re.findall(r"^  ([a-z]+) {2,}\S", cli.HELP.partition("examples:")[0], re.M)


def commands() -> str:
    """A page with what ``gpt2jax --help`` and ``gpt2jax VERB --help`` print."""
    lines = ["# Every command", "", "```text", *_wrapped(cli.HELP), "```"]
    for verb in verbs():
        lines += ["", f"## gpt2jax {verb}", "", "```text", *_wrapped(help_of(verb)), "```"]
    return "\n".join(lines)


def help_of(verb: str) -> str:
    """What ``gpt2jax VERB --help`` prints on a plain terminal of :data:`COLUMNS` columns."""
    printed = io.StringIO()
    with (
        patch.dict(os.environ, {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        cli.main([verb, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())


def _wrapped(text: str) -> Iterator[str]:
    for line in text.strip("\n").splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(line, COLUMNS, subsequent_indent=indent) or [""]
