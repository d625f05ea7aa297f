"""The rows of a run's metrics.jsonl. Without jax: reports of runs start fast."""

from pathlib import Path

from gpt2jax.files import parse_json

Row = dict[str, float]

METRICS_FILE = "metrics.jsonl"


def read_rows(run_dir: str | Path) -> list[Row]:
    """The rows of a run's metrics.jsonl: training rows have ``loss``, validation rows ``validation_loss``.

    A last line that was cut off, by a full disk say, is no row.

    Raises:
        GPT2JaxError: another line is none.
    """
    path = Path(run_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [parse_json(line.encode(), f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def mean_mfu(rows: list[Row]) -> float | None:
    """The MFU of all training steps together: each row's, weighted by the seconds that it took."""
    weighted = seconds = since = 0.0
    for row in rows:
        if "mfu" in row:
            weighted += row["mfu"] * (row["train_seconds"] - since)
            seconds += row["train_seconds"] - since
        since = row["train_seconds"]
    return weighted / seconds if seconds else None
