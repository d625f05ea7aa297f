"""The folder of an evaluation: a JSON file for each model, and the table and the picture of all of them."""

import dataclasses
from pathlib import Path

from gpt2jax.errors import GPT2JaxError
from gpt2jax.evaluate import figures, picture, table
from gpt2jax.evaluate.figures import Evaluation
from gpt2jax.files import read_json, write_text

TABLE, PICTURE = "evaluation.md", "evaluation.png"


def read_all(folder: Path) -> dict[Path, Evaluation]:
    """What evaluations have left in ``folder``; JSON files of others are passed over.

    Raises:
        GPT2JaxError: the folder is a file, or what was left is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise GPT2JaxError(f"output: {folder}: is a file: should be a folder, or not there")
    paths = [path for path in sorted(folder.glob("*.json")) if "figures" in read_json(path)]
    return {path: figures.read(path) for path in paths}


def add(evaluation: Evaluation, folder: Path, name: str) -> Evaluation:
    """Write ``evaluation`` as NAME-DIGEST.json into ``folder``.

    Figures that the same model has there already stay, but for those of the same task, variant and protocol.

    Returns:
        What the file now holds.

    Raises:
        GPT2JaxError: a file cannot be written, or one that is there is damaged.
    """
    path = folder / f"{name}-{evaluation.digest[:8]}.json"
    if path.exists():
        fresh = {_key(figure) for figure in evaluation.figures}
        kept = [figure for figure in figures.read(path).figures if _key(figure) not in fresh]
        evaluation = dataclasses.replace(evaluation, figures=(*kept, *evaluation.figures))
    figures.write(evaluation, path)
    return evaluation


def publish(folder: Path) -> None:
    """Make table and picture of all models in ``folder``."""
    everything = sorted(read_all(folder).values(), key=table.by_size)
    write_text(folder / TABLE, table.report(everything))
    picture.draw(everything, folder / PICTURE)


def _key(figure: figures.Figure) -> tuple[str, str, str]:
    return figure.task, figure.variant, figure.protocol
