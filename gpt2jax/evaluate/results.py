"""The folder of an evaluation: a JSON file for each model, and the table and the picture of all of them."""

import dataclasses
from pathlib import Path

from gpt2jax.evaluate import figures, picture, table
from gpt2jax.evaluate.figures import Evaluation
from gpt2jax.files import write_text

TABLE, PICTURE = "evaluation.md", "evaluation.png"


def add(evaluation: Evaluation, folder: Path, name: str) -> Evaluation:
    """Write ``evaluation`` as NAME.json into ``folder``.

    Figures of other tasks that the same model, by its parameters' digest, has there already stay; the same ones are
    replaced.

    Returns:
        What the file now holds.

    Raises:
        GPT2JaxError: a file cannot be written, or one that is there is damaged.
    """
    path = folder / f"{name}.json"
    if path.exists():
        before = figures.read(path)
        if (before.digest, before.compute_dtype) == (evaluation.digest, evaluation.compute_dtype):
            fresh = {(figure.task, figure.variant) for figure in evaluation.figures}
            kept = [figure for figure in before.figures if (figure.task, figure.variant) not in fresh]
            evaluation = dataclasses.replace(evaluation, figures=(*kept, *evaluation.figures))
    figures.write(evaluation, path)
    return evaluation


def publish(folder: Path) -> None:
    """Make table and picture of all models in ``folder``."""
    everything = sorted((figures.read(one) for one in sorted(folder.glob("*.json"))), key=table.by_size)
    write_text(folder / TABLE, table.report(everything))
    picture.draw(everything, folder / PICTURE)
