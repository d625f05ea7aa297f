"""`gpt2jax report`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from gpt2jax.cli.parse import parse
from gpt2jax.errors import GPT2JaxError
from gpt2jax.tables import show

HELP = """Compare runs: one table, the settings in which they differ, and one picture.

RUN is a run's folder; it may have ended, been interrupted, or be running. Hours and energy are those of all its starts,
from the clock on the wall; tokens/s and MFU are of training steps alone, and MFU is shown for runs on devices whose
peak is listed.

examples:
  gpt2jax report runs/quickstart
  gpt2jax report runs/* --output sweep.png --csv sweep.csv"""


@dataclasses.dataclass(frozen=True)
class ReportArgs:
    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs."""
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = "compare.png"
    """The picture: losses over steps, tokens and hours."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The table's numbers as comma-separated values, with all their digits."""


def run(args: list[str]) -> int:
    given = parse(ReportArgs, args, "report", HELP)
    if not given.runs:
        raise GPT2JaxError("report: needs a run's folder, or several")
    if not given.output.endswith(".png"):
        raise GPT2JaxError(f"--output: {given.output}: should end in .png")
    from gpt2jax.train import compare

    runs = [compare.Run.read(folder) for folder in dict.fromkeys(given.runs)]
    show(compare.table(runs))
    if differences := compare.differing(runs):
        print()
        show(differences)
    if given.csv:
        compare.write_csv(runs, Path(given.csv))
    compare.draw(runs, Path(given.output))
    print(f"\npicture: {given.output}" + (f"   numbers: {given.csv}" if given.csv else ""))
    return 0
