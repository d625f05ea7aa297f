"""Tables: lines of cells, the first line the names, shown on a terminal, in a pipe or as Markdown."""

import re
import sys
from collections.abc import Sequence

Lines = Sequence[Sequence[str]]


def show(lines: Lines) -> None:
    """Print ``lines``: drawn on a terminal, plain where stdout is none."""
    if not sys.stdout.isatty():
        print(plain(lines))
        return
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    drawn = rich.table.Table(box=rich.box.SIMPLE)
    for name, right in zip(lines[0], _numbers(lines), strict=True):
        drawn.add_column(rich.text.Text(name), justify="right" if right else "left", overflow="fold")
    for line in lines[1:]:
        drawn.add_row(*map(rich.text.Text, line))
    rich.console.Console().print(drawn)


def plain(lines: Lines) -> str:
    """Columns for a pipe: numbers to the right, words to the left."""
    widths, numbers = [max(map(len, column)) for column in zip(*lines, strict=True)], _numbers(lines)

    def line(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, numbers, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in placed).rstrip()

    return "\n".join(map(line, lines))


def markdown(lines: Lines) -> str:
    """A Markdown table, aligned as :func:`plain` is."""
    names, *body = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rule = ["---:" if right else "---" for right in _numbers(lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [names, rule, *body])


def _numbers(lines: Lines) -> list[bool]:
    """Of each column: whether all below its name are numbers, or a dash where there is none."""
    columns = list(zip(*lines[1:], strict=True)) or [("",)] * len(lines[0])
    return [all(re.match(r"[-+]?[\d.]|-$|inf|nan|$", cell) for cell in column) for column in columns]
