"""An evaluation from its beginning to its end: what there is, how long it will take, and the figures."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from gpt2jax.config import EvaluationConfig, MeshConfig
from gpt2jax.distributed import is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import results, table
from gpt2jax.evaluate.figures import Evaluation, Figure
from gpt2jax.evaluate.run import Run, gather, safe
from gpt2jax.files import remove_folder
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
        All that the model's file now holds, or None after a dry run.

    Raises:
        GPT2JaxError: no such model, task or data; data that is not what its name says; nothing to do.
    """
    out, name = Path(config.output), safe(model)
    files = gather(config)
    for line in files.missing:
        say(f"missing: {line}")
    if not files.tasks:
        raise GPT2JaxError(f"data: {config.data}: has the files of none of {', '.join(config.tasks)}")
    if is_primary() and not dry_run:
        out.mkdir(parents=True, exist_ok=True)  # Before hours are spent.
    run = Run(model, config, mesh, files)
    expected = run.expected()
    lines = [["to do", "rows", "tokens read", "time, about"]]
    for (_, job), seconds in zip(run.jobs, expected, strict=True):
        lines.append([job.name, f"{job.count:,}", f"{job.forward_tokens:,}", duration(seconds)])
    total = sum(job.forward_tokens for _, job in run.jobs)
    lines.append(["all", "", f"{total:,}", duration(sum(expected))])
    say(plain(lines))
    if dry_run:
        return None
    journals = out / JOURNALS / name
    figures: list[Figure] = []
    for made in run.figures(journals):
        figures += made
        for figure in made:
            say(table.line(figure, run.preset))
        whole = run.evaluation(figures, command)
        if is_primary():
            whole = results.add(whole, out, name)
    if is_primary():
        results.publish(out)
        remove_folder(journals)
        with contextlib.suppress(OSError):  # Another model's, which goes on elsewhere.
            journals.parent.rmdir()
    return whole
