"""The Python of each page runs, block after block, with a small model under the released ones' names."""

import ast
from pathlib import Path

import jax
import pytest

from tests.docs.conftest import SIZES
from tests.docs.pages import PAGES, ROOT, blocks

# Other programs, whose code stands beside ours to compare: it is only parsed.
OTHERS = {"gpt_2", "maxtext", "MaxText", "model", "openai", "tensorflow", "tiktoken", "torch", "transformers"}


def run(text: str) -> dict[str, object]:
    """Run a page's blocks of Python in one namespace, in order."""
    names: dict[str, object] = {}
    for block in blocks(text):
        if block.language == "python":
            tree = ast.parse("\n" * block.line + block.text)
            if not OTHERS & imported(tree):
                exec(compile(tree, "page.md", "exec"), names)
    return names


def imported(tree: ast.Module) -> set[str]:
    found = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    found += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in found}


WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page: Path, stand_ins: Path) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # As a reader has it.
        run(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\nx = 1\n```\n\n```python\nprint(y)\n```", NameError),
        ("```python\nimport gpt2jax\n\ngpt2jax.lode('gpt2')\n```", AttributeError),
        ("```python\nfrom gpt2jax.model import backward\n```", ImportError),
        ("```python\nimport torch\n\nx = = 1\n```", SyntaxError),
    ],
)
def test_python_that_fails_is_seen(page: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(page)


def test_a_name_is_the_small_model(stand_ins: Path) -> None:
    names = run("```python\nimport gpt2jax\n\nparams, config, tokenizer = gpt2jax.load('gpt2-xl')\n```")
    assert [getattr(names["config"], name) for name in SIZES] == list(SIZES.values())
    names = run("```python\nfrom gpt2jax.presets import preset\n\nsizes = preset('355M')\n```")
    assert names["sizes"] == SIZES
