"""Public corpora by name: presets.yaml, checked."""

import dataclasses
import functools
from importlib import resources
from typing import Any

from gpt2jax.errors import GPT2JaxError, nearest
from gpt2jax.fields import NotEmpty, settings
from gpt2jax.yaml_file import parse_yaml


@settings("preset")
class Preset:
    """A public corpus, and how it is prepared by default."""

    name: NotEmpty
    title: NotEmpty
    address: NotEmpty
    """Where it comes from."""
    licence: NotEmpty
    sources: tuple[NotEmpty, ...] = ()
    """What is read where no files are named; empty: files must be named."""
    validation_sources: tuple[NotEmpty, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of `gpt2jax prepare` by their names, with underscores."""

    @property
    def provenance(self) -> dict[str, str]:
        """What meta.json keeps of it."""
        return {"preset": self.name, "title": self.title, "from": self.address, "licence": self.licence}


@functools.cache
def presets() -> dict[str, Preset]:
    """All of them, by name."""
    text = resources.files("gpt2jax.data").joinpath("presets.yaml").read_text(encoding="utf-8")
    raw: dict[str, dict[str, Any]] = parse_yaml(text, "presets.yaml")
    made = {}
    for name, fields in raw.items():
        address = fields.pop("from")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        made[name] = Preset(name=name, address=address, **lists)
    return made


def find_preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        GPT2JaxError: there is none.
    """
    found = presets().get(name)
    if found is None:
        raise GPT2JaxError(f"preset: {name!r}: unknown ({nearest(name, presets())})")
    return found
