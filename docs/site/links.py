"""Links between pages as they stand in the repository, turned into links of the site."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

# Code, in which nothing is a link, or the target of one.
CODE_OR_LINK = re.compile(r"(?P<code>```.*?^\s*```|`[^`\n]+`)|(?P<start>\]\()(?P<target>[^)\s]+)(?=\))", re.S | re.M)


class DeadLinkError(Exception):
    """A link that leads to nothing."""


def rewrite(text: str, source: Path, page: str, pages: Mapping[Path, str], root: Path, repository: str) -> str:
    """``text`` with its relative links as they are on the site.

    Args:
        text: Markdown.
        source: the file that it stands in, which its links start from.
        page: the page's path in the site.
        pages: the files that are part of the site, with their paths in it.
        root: the folder of the repository; links to other files in it become addresses below ``repository``.
        repository: where the repository is on the web.

    Raises:
        DeadLinkError: a link leads to no file, or out of the repository.
    """

    def replaced(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or re.match(r"[a-z]+:|#", target):
            return found[0]
        name, hash_, part = target.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        if path in pages:
            new = os.path.relpath(pages[path], os.path.dirname(page) or ".")
        elif path.exists() and path.is_relative_to(root):
            kind = "tree" if path.is_dir() else "blob"
            new = f"{repository}/{kind}/main/{path.relative_to(root).as_posix()}"
        else:
            raise DeadLinkError(f"{source.relative_to(root)}: {target}: leads to nothing")
        return f"{found['start']}{new}{hash_}{part}"

    return CODE_OR_LINK.sub(replaced, text)
