"""What a page of documentation holds that a reader may copy: blocks of code, and code between words."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "MODEL_CARD.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
]
# Files whose comments at the top say how they are used.
HEADS = [
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".yaml")),
]


class Block(NamedTuple):
    """A fenced block."""

    line: int
    """Of its fence, from 1 on."""
    language: str
    """What stands behind the fence; nothing where it is commands."""
    text: str
    before: str
    """The last line of text before it."""

    @property
    def file(self) -> str | None:
        """The settings file that a block of YAML is said to be: in the line before it, or in its first comment."""
        found = re.search(r"([\w/.-]+\.ya?ml)", f"{self.before}\n{self.text}".split("\n#  ")[0].split("\n\n")[0])
        return found[1] if found else None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    before, start, language, inside = "", 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*```\s*(\S*)", line)
        if start and fence:
            found.append(Block(start, language, "\n".join(inside), before))
            start, before = 0, ""
        elif start:
            inside.append(line)
        elif fence:
            start, language, inside = number, fence[1], []
        elif line.strip():
            before = line
    return found


def spans(text: str) -> list[str]:
    """Code between words, each on one line."""
    prose = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def head_commands(text: str) -> str:
    """The commands in the comments of a file: each begins an indented line, and goes on after a backslash."""
    program = r"#   +(?:\S*/)?(?:gpt2jax|make|sbatch|sky|srun|\w+\.sh) "
    found = re.findall(rf"^{program}(?:.*\\\n)*.*", text, re.M)
    return "\n".join(re.sub(r"^# *", "", command, flags=re.M) for command in found)
