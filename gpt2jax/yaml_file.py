"""YAML as people write it."""

import re
from pathlib import Path
from typing import Any

import yaml

from gpt2jax.errors import GPT2JaxError


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a number needs a dot: without this, `1e-3` would be text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        GPT2JaxError: there is none, or it is not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GPT2JaxError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GPT2JaxError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What ``text`` says as YAML; ``where`` heads the error line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise GPT2JaxError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None
