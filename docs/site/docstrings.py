"""Names in docstrings, written ``:func:`name```, as links of the site; one that names nothing is an error."""

import re
from typing import Any

import griffe
from mkdocs.plugins import get_plugin_logger

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
log = get_plugin_logger("docstrings")


class Roles(griffe.Extension):
    """Turns each role into a link to what it names, or to code where that is not part of the reference."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Go through all docstrings of a package once it is loaded."""
        loader.resolve_aliases()
        self._walk(pkg, loader.modules_collection)

    def _walk(self, owner: griffe.Object, found: griffe.ModulesCollection) -> None:
        if owner.docstring:
            owner.docstring.value = ROLE.sub(lambda role: link(role, owner, found), owner.docstring.value)
        for member in owner.members.values():
            if isinstance(member, griffe.Object):  # Not what is imported.
                self._walk(member, found)


def link(role: re.Match[str], owner: griffe.Object, found: griffe.ModulesCollection) -> str:
    """Markdown for a role in the docstring of ``owner``."""
    short, name = role.groups()
    shown = name.rsplit(".", 1)[-1] if short else name
    try:
        target = found[name if name.startswith(f"{owner.package.path}.") else _resolved(owner, name)]
        target = target.final_target if isinstance(target, griffe.Alias) else target
    except (KeyError, griffe.NameResolutionError):
        log.warning(f"{owner.path}: {role[0]}: there is no such name")
        return f"`{shown}`"
    if target.docstring is None or any(re.match("_(?!_)", part) for part in target.path.split(".")):
        return f"`{shown}`"
    return f"[`{shown}`][{target.path}]"


def _resolved(owner: griffe.Object, name: str) -> str:
    """The path of a name as code in ``owner``, or in its class, would look it up."""
    first, _, rest = name.partition(".")
    scope: griffe.Object | None = owner
    while scope is not None and first not in scope.members:
        scope = scope.parent if not scope.is_module else None
    path = f"{scope.path}.{first}" if scope is not None else owner.resolve(first)
    return f"{path}.{rest}" if rest else path
