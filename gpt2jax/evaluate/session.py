"""An evaluation from its beginning to its end: what there is, how long it will take, and the figures."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from gpt2jax.config import EvaluationConfig, MeshConfig
from gpt2jax.distributed import all_agree, is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import results, table
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.run import Run, gather, safe
from gpt2jax.files import make_folder
from gpt2jax.progress import duration
from gpt2jax.tables import plain

# In the folder of the results while an evaluation goes on.
JOURNALS = ".scored"


def evaluate(
    model: str,
    config: EvaluationConfig,
    mesh: MeshConfig | None = None,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
    dry_run: bool = False,
) -> Evaluation | None:
    """Do all tasks of ``config`` whose data is there. Figures are written after each, table and picture at the end.

    Args:
        model: what :func:`gpt2jax.weights.sources.open_weights` takes.
        mesh: the devices to compute on; by default one. Every process of several must call this.
        command: for the report.
        say: told what is missing, what it will take, and how far it has come, in lines.
        dry_run: say what it would take, and do nothing.

    Returns:
        The figures of this call, or None after a dry run.

    Raises:
        GPT2JaxError: no such model, task or data; data that is not what its name says; nothing to do.
    """
    out, name = Path(config.output), safe(model)
    results.read_all(out)  # What is wrong there is better said before hours are spent.
    files = gather(config)
    for line in files.missing:
        say(f"missing: {line}")
    if not files.tasks:
        raise GPT2JaxError(f"data: {config.data}: has the files of none of {', '.join(config.tasks)}")
    run = Run(model, config, mesh, files)
    if not dry_run:
        _together(functools.partial(make_folder, out))
    expected = run.expected()
    lines = [["to do", "rows", "tokens read", "time, about, without compiling"]]
    for (job, *_), seconds in zip(run.jobs, expected, strict=True):
        lines.append([job.name, f"{job.count:,}", f"{job.forward_tokens:,}", duration(seconds)])
    total = sum(job.forward_tokens for job, *_ in run.jobs)
    lines.append(["all", "", f"{total:,}", duration(sum(expected))])
    say(plain(lines))
    if dry_run:
        return None
    journals = out / JOURNALS / f"{name}-{run.scorer.fingerprint[:8]}"
    figures: list[Figure] = []
    for made in run.figures(journals, command):
        figures += made
        for figure in made:
            say(table.line(figure, run.preset))
        _together(functools.partial(results.add, run.evaluation(figures), out, name))
    _together(functools.partial(results.publish, out))
    run.clear(journals)
    if is_primary():
        for folder in (journals, journals.parent):
            with contextlib.suppress(OSError):  # It has what others are to go on from.
                folder.rmdir()
    return run.evaluation(figures)


def _together(write: Callable[[], object]) -> None:
    """Let the first process write, and end all of them where it cannot."""
    failure = None
    try:
        if is_primary():
            write()
    except GPT2JaxError as error:
        failure = error
    if not all_agree(failure is None):
        raise failure or GPT2JaxError("output: cannot be written, by the first process")
