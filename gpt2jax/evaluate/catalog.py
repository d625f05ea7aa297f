"""The data sets that are scored: their files in every usual release, how these are known, and where they come from."""

import functools
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.evaluate.units import ITEMS, RULES
from gpt2jax.fields import Count, NotEmpty, settings
from gpt2jax.yaml_file import parse_yaml

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(pattern=r"^https?://\S+$")]


@settings("contents")
class Contents:
    """What is known of the file that is read, after unpacking."""

    size: Count | None = None
    """In bytes."""
    sha256: Sha256 | None = None
    lines: Count | None = None
    """Newline characters."""


@settings("release")
class Release:
    """One form in which a data set's file is given away."""

    names: Annotated[tuple[NotEmpty, ...], Field(min_length=1)]
    """Ends of paths below the data folder; one that begins with ``./`` stands in that folder itself."""
    form: Literal["file", "zip", "tar", "parquet"] = "file"
    member: NotEmpty | None = None
    """The end of the path inside a zip or tar."""
    restore: Literal["wikitext", "padded", "json-text", "lines", "cbt", "hellaswag"] | None = None
    """How the rows of a Parquet file become the original's bytes; see :mod:`gpt2jax.evaluate.restore`."""
    fields: tuple[NotEmpty, ...] = ("text",)
    """A Parquet file's columns that are read."""
    exact: bool = True
    """Whether what is restored has the original's bytes, so that its hash can be compared."""
    size: Count | None = None
    """Of this file itself, the archive say; in bytes."""
    sha256: Sha256 | None = None
    save_as: NotEmpty | None = None
    """The path below the data folder that a download gets; by default the first of ``names``."""
    urls: tuple[Address, ...] = ()
    """Public addresses of it, to be tried in order."""

    @property
    def target(self) -> str:
        """The path below the data folder that a download gets."""
        return self.save_as or self.names[0].removeprefix("./")


@settings("data set")
class Dataset:
    """A file that is scored."""

    name: NotEmpty
    title: NotEmpty
    licence: NotEmpty
    """As far as known."""
    releases: Annotated[tuple[Release, ...], Field(min_length=1)]
    elsewhere: NotEmpty
    """Where to get it by hand."""
    contents: Contents = Contents()
    column: NotEmpty | None = None
    """The paper's column, or columns with a comma between, that it feeds."""
    unit: NotEmpty = ITEMS
    """The rule by which its canonical units U are counted: a name in :data:`gpt2jax.evaluate.units.RULES`, or items."""
    units: Count | None = None
    """U of the original, where it is known."""
    akin: tuple[NotEmpty, ...] = ()
    """Data sets that are easily taken for this one."""
    group: NotEmpty | None = None
    """The name under which several files are asked for together."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.column.split(", ")) if self.column else ()

    @property
    def public(self) -> Release | None:
        """The release that can be downloaded."""
        return next((release for release in self.releases if release.urls), None)

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every name that is looked for."""
        return tuple(name.removeprefix("./") for release in self.releases for name in release.names)


@functools.cache
def catalog() -> dict[str, Dataset]:
    """The data sets that the package knows, by name."""
    text = resources.files("gpt2jax.evaluate").joinpath("catalog.yaml").read_text(encoding="utf-8")
    return parse(text, "catalog.yaml")


def parse(text: str, where: str) -> dict[str, Dataset]:
    """The data sets that ``text`` lists as YAML.

    Raises:
        GPT2JaxError: an entry is not complete, or contradicts itself.
    """
    raw: dict[str, dict[str, Any]] = parse_yaml(text, where)
    known = {name: Dataset(name=name, **entry) for name, entry in raw.items()}
    for name, entry in known.items():
        for other in entry.akin:
            if other not in known:
                raise GPT2JaxError(f"{where}: {name}.akin: {other!r}: unknown ({nearest(other, known)})")
        if entry.unit not in (*RULES, ITEMS):
            raise GPT2JaxError(
                f"{where}: {name}.unit: {entry.unit!r}: unknown ({nearest(entry.unit, [*RULES, ITEMS])})"
            )
        for release in entry.releases:
            if (release.member is not None) != (release.form in ("zip", "tar")):
                raise GPT2JaxError(f"{where}: {name}: {release.names[0]}: an archive, and nothing else, has a member")
            if (release.restore is not None) != (release.form == "parquet"):
                raise GPT2JaxError(
                    f"{where}: {name}: {release.names[0]}: a Parquet file, and nothing else, is restored"
                )
    return known


def dataset(name: str) -> Dataset:
    """A data set by its name.

    Raises:
        GPT2JaxError: there is none, or several go by that name.
    """
    known = catalog()
    if name not in known:
        parts = [entry.name for entry in known.values() if entry.group == name]
        if parts:
            raise GPT2JaxError(f"data set: {name!r}: is several files: {', '.join(parts)}")
        raise GPT2JaxError(f"data set: {name!r}: unknown ({nearest(name, known)})")
    return known[name]


def members(name: str) -> tuple[Dataset, ...]:
    """The data sets of a group, or the one data set, that ``name`` means.

    Raises:
        GPT2JaxError: it means none.
    """
    group = tuple(entry for entry in catalog().values() if entry.group == name)
    return group or (dataset(name),)
