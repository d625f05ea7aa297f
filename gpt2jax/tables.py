"""Tables: lines of cells, the first line the names, shown on a terminal, in a pipe or as Markdown."""

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
    for number, name in enumerate(lines[0]):
        drawn.add_column(rich.text.Text(name), justify="right" if number else "left", overflow="fold")
    for line in lines[1:]:
        drawn.add_row(*map(rich.text.Text, line))
    rich.console.Console().print(drawn)


def plain(lines: Lines) -> str:
    """Columns for a pipe: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

    return "\n".join(map(line, lines))


def markdown(lines: Lines) -> str:
    """A Markdown table, aligned as :func:`plain` is."""
    names, *body = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rule = ["---", *["---:"] * (len(names) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [names, rule, *body])
