"""Pictures without pyplot: no global state, no display, no clash with the user's figures."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt2jax.files import new_file


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own; sizes in inches of 120 pixels."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as a whole PNG."""
    with new_file(path) as partial:
        figure.savefig(partial, format="png")
