"""The notebooks as they lie in git: nothing is executed here (that is `make notebooks`)."""

import copy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import rules
from tests.notebooks.execute import main

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rules(path: Path) -> None:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert rules.faults(notebook, path.name) == []


def test_no_two_notebooks_have_the_same_number() -> None:
    assert len({path.name[0] for path in NOTEBOOKS}) == len(NOTEBOOKS) > 0


def good() -> NotebookNode:
    cells = [
        new_markdown_cell(f"# Nine\n\n{rules.badge('9_nine.ipynb')}"),
        new_code_cell(rules.set_up()),
        new_code_cell("from gpt2jax import notebook\n\nnotebook.begin()"),
        new_code_cell("def draw_line(axes):\n    axes.plot([0, 1])"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_good_notebook_has_no_faults() -> None:
    assert rules.faults(good(), "9_nine.ipynb") == []


def code(source: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells.append(new_code_cell(source))


def source(number: int, change: Callable[[str], str]) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[number].update(source=change(notebook.cells[number].source))


BAD: dict[str, tuple[Callable[[NotebookNode], None], str]] = {
    "outputs": (lambda n: n.cells[3].outputs.append(new_output("stream", text="0.5")), "cell 3: has outputs"),
    "count": (lambda n: n.cells[3].update(execution_count=1), "cell 3: has an execution count"),
    "format": (lambda n: n.update(nbformat_minor=4), "format"),
    "ids": (lambda n: n.cells[3].update(id=n.cells[2].id), "ids"),
    "kernel": (lambda n: n.metadata.kernelspec.update(name="ir"), "kernel"),
    "no badge": (source(0, lambda text: text.split("\n")[0]), "badge"),
    "badge of another": (source(0, lambda text: text.replace("9_nine.ipynb", "8_eight.ipynb")), "badge"),
    "badge of another repository": (source(0, lambda text: text.replace("github/gpt2jax", "github/other")), "badge"),
    "set-up": (source(1, lambda text: text.replace("*kept, ", "")), "set-up"),
    "begin": (source(2, lambda text: text.replace("begin()", "begin(8 * 2)")), "begin"),
    "long": (code("x = 1\n" * 26), "cell 4: should have at most 25 lines"),
    "magic": (code("import os\n!ls"), "cell 4: line 2: is not plain Python"),
    "long line": (source(0, lambda text: f"{text}\n{'word ' * 25}"), "cell 0: has lines of more than 120"),
    "class": (code("class Model:\n    pass"), "cell 4: defines Model"),
    "function": (code("def softmax(x):\n    return x"), "cell 4: defines softmax"),
    "long drawing": (code("def draw_all():\n" + "    x = 1\n" * 15), "cell 4: defines draw_all"),
    "private module": (code("import gpt2jax._hidden"), "cell 4: imports the private"),
    "private name": (code("from gpt2jax.model import _embed"), "cell 4: imports the private"),
    "private attribute": (code("from gpt2jax import model\n\nmodel._embed"), "cell 4: uses the private _embed"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_fault_is_seen_and_no_other(name: str) -> None:
    break_it, expected = BAD[name]
    notebook = copy.deepcopy(good())
    break_it(notebook)
    [fault] = rules.faults(notebook, "9_nine.ipynb")
    assert fault.startswith(expected)


def test_a_name_without_a_number_is_seen() -> None:
    faults = rules.faults(good(), "nine.ipynb")
    assert [fault.split(":")[0] for fault in faults] == ["name", "badge"]


def test_a_cell_that_raises_is_named_and_nothing_is_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PYTHONPATH", "GPT2JAX_CACHE", "IPYTHONDIR", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, "")  # To be as before at the end, whatever is set.
    path, html = tmp_path / "9_nine.ipynb", tmp_path / "html"
    cells = ["import sys\n\nprint('careful', file=sys.stderr)", "wrong = 1 / 0", "print(not_reached)"]
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in cells]), path)
    before = path.read_bytes()
    monkeypatch.setattr("sys.argv", ["execute", str(path), "--html", str(html)])
    assert main() == 1
    out, error = capsys.readouterr()
    assert "9_nine.ipynb" in out
    assert "cell 0: careful" in out
    assert "wrong = 1 / 0" in error
    assert "ZeroDivisionError" in error
    assert "not_reached" not in error
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in (html / "9_nine.html").read_text(encoding="utf-8")
