"""Execute the notebooks from top to bottom, as a reader does; `make notebooks`.

    python -m tests.notebooks.execute [NOTEBOOK ...] [--html FOLDER]

All of them run in one temporary folder, so that the small model is trained once. The notebooks themselves are not
written. Ends with status 1 when a cell raises, saying which.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).parents[2]
CELL_SECONDS = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all in notebooks/")
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="write what was executed there, to look at")
    given = parser.parse_args()
    notebooks = given.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if given.html:
        given.html.mkdir(parents=True, exist_ok=True)
    failed, began = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="notebooks-") as folder:
        set_environment(Path(folder))
        for path in notebooks:
            notebook, start = nbformat.read(path, as_version=4), time.monotonic()
            error = execute(notebook, Path(folder))
            print(f"{path.name}: {time.monotonic() - start:.1f} s{' FAILED' if error else ''}", flush=True)
            for line in said_on_stderr(notebook):
                print(f"  stderr: {line}")
            if error:
                failed.append(path.name)
                print(error, file=sys.stderr)
            if given.html:
                write_html(notebook, given.html / f"{path.stem}.html")
    print(f"{len(notebooks)} notebooks in {time.monotonic() - began:.0f} s" + ", failed: " * bool(failed), *failed)
    return 1 if failed else 0


def set_environment(folder: Path) -> None:
    """What the kernels find: this package, and no programs that were compiled before, as for somebody new."""
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([given] if given else [])])
    os.environ["GPT2JAX_CACHE"] = str(folder / "cache")
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # Else each kernel warns that it cannot be debugged.


def execute(notebook: nbformat.NotebookNode, folder: Path) -> str | None:
    """Run every cell in ``folder``, outputs into ``notebook``; what went wrong, or None."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=40"],  # How the kernel is reached, of which it warns, is nobody's concern here.
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return None


def said_on_stderr(notebook: nbformat.NotebookNode) -> list[str]:
    """Lines, each with its cell's number: warnings are for us to mend, not for readers to wonder at."""
    return [
        f"cell {number}: {line}"
        for number, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
        for line in output.text.splitlines()
    ]


def write_html(notebook: nbformat.NotebookNode, path: Path) -> None:
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_notebook_node(notebook)
    path.write_text(html, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
