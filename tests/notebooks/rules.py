"""What holds for every notebook, whatever it teaches."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]

# The first code cell of all notebooks. pip is asked for the jax that is there, in so many words, and so cannot put
# another in its place: if gpt2jax does not work with it, pip says so, and so does the cell.
SET_UP = """\
# The same in every notebook: on Colab it installs gpt2jax, beside the jax that is there.
import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("gpt2jax") is None:
    kept = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
    source = "gpt2jax @ git+{repository}"
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *kept, source], check=False)
    if done.returncode:
        raise SystemExit(f"gpt2jax does not go with the {' and '.join(kept)} of this runtime: pip says why.")"""
BEGIN = re.compile(r"from gpt2jax import notebook\n\nnotebook\.begin\((cpu_devices=\d+)?\)")

CELL_LINES = 25
PROSE_COLUMNS = 120
DRAWING_LINES = 15


def repository() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["urls"]["Repository"])


def set_up() -> str:
    return SET_UP.replace("{repository}", repository())


def badge(name: str) -> str:
    """The line that opens the notebook ``name`` in Colab."""
    place = repository().removeprefix("https://github.com/")
    colab = "https://colab.research.google.com"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{place}/blob/main/notebooks/{name})"


def faults(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """What is wrong with a notebook whose file is called ``name``, a line each."""
    found = []
    cells = notebook.cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    if not re.fullmatch(r"\d_[a-z_]+\.ipynb", name):
        found.append(f"name: {name}: should be a digit and words")
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        found.append("format: should be 4.5 or above, in which cells have ids")
    if len({cell.get("id") for cell in cells}) != len(cells):
        found.append("ids: should be another one for each cell")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("kernel: should be python3")
    if not cells or cells[0].cell_type != "markdown" or badge(name) not in cells[0].source.splitlines():
        found.append(f"badge: the first cell should have the line {badge(name)}")
    if not code or code[0] != set_up():
        found.append("set-up: the first code cell should be that of all notebooks")
    if len(code) < 2 or not BEGIN.fullmatch(code[1]):
        found.append("begin: the second code cell should be notebook.begin()")
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            found += [f"cell {number}: {fault}" for fault in _faults_of_code(cell)]
        elif any(len(line) > PROSE_COLUMNS for line in cell.source.splitlines() if not line.startswith("[![")):
            found.append(f"cell {number}: has lines of more than {PROSE_COLUMNS} characters")
    return found


def _faults_of_code(cell: nbformat.NotebookNode) -> list[str]:
    found = []
    if cell.outputs:
        found.append("has outputs")
    if cell.execution_count is not None:
        found.append("has an execution count")
    if len(cell.source.splitlines()) > CELL_LINES:
        found.append(f"should have at most {CELL_LINES} lines")
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        return [*found, f"line {error.lineno}: is not plain Python"]
    return found + [fault for node in ast.walk(tree) for fault in _faults_of_node(node)]


def _faults_of_node(node: ast.AST) -> list[str]:
    """What the package has is imported from it, by its public names, and not written again."""
    match node:
        case ast.ClassDef() | ast.AsyncFunctionDef():
            return [f"defines {node.name}: classes belong into the package"]
        case ast.FunctionDef():
            size = len(ast.unparse(node).splitlines())
            if not node.name.startswith("draw_") or size > DRAWING_LINES:
                return [f"defines {node.name}: only draw_... may be defined, in at most {DRAWING_LINES} lines"]
        case ast.Attribute(attr=name) if name.startswith("_") and not name.endswith("__"):
            return [f"uses the private {name}"]
        case ast.Import(names=names):
            return [f"imports the private {one.name}" for one in names if _private(one.name)]
        case ast.ImportFrom(module=module, names=names):
            return [f"imports the private {module}.{one.name}" for one in names if _private(f"{module}.{one.name}")]
    return []


def _private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))
