"""What the site is made of beside its pages: links, and the reference."""

import dataclasses
import re
from pathlib import Path

import griffe
import pytest

from gpt2jax.config import Config
from tests.docs.pages import ROOT
from tests.docs.site import module

REPOSITORY = "https://example.org/repository"


def rewritten(text: str) -> str:
    source = ROOT / "docs" / "training.md"
    pages = {source: "training.md", ROOT / "docs" / "weights.md": "weights.md", ROOT / "README.md": "a/readme.md"}
    return module("links").rewrite(text, source, "training.md", pages, ROOT, REPOSITORY)


def test_links_lead_to_pages_of_the_site_or_into_the_repository() -> None:
    assert rewritten("[x](weights.md#part), [y](../README.md)") == "[x](weights.md#part), [y](a/readme.md)"
    assert rewritten("[x](../Makefile)") == f"[x]({REPOSITORY}/blob/main/Makefile)"
    assert rewritten("[x](../configs/)") == f"[x]({REPOSITORY}/tree/main/configs)"
    for as_it_is in ("[x](https://example.org)", "[x](#part)", "`[x](none.md)`", "```\n[x](none.md)\n```\n"):
        assert rewritten(as_it_is) == as_it_is


@pytest.mark.parametrize("target", ["none.md", "../../outside.md", "../tests/none.py"])
def test_a_link_to_nothing_is_an_error(target: str) -> None:
    with pytest.raises(module("links").DeadLinkError, match=re.escape(f"docs/training.md: {target}: leads to nothing")):
        rewritten(f"[x]({target})")


def test_every_setting_stands_in_the_reference_with_its_default() -> None:
    page = module("reference").settings()
    for field in dataclasses.fields(Config):
        section = page.partition(f"\n## {field.name}\n")[2].partition("\n## ")[0]
        rows = dict(re.findall(r"^\| `(\w+)` \| .* \| `(.*)` \| \S.* \|$", section, re.M))
        assert list(rows) == [key.name for key in dataclasses.fields(getattr(Config(), field.name))]
    assert "| `steps` | whole number, at least 1 | `1000` | Optimizer steps in all. |" in page
    assert "| `init_from` | text or null | `null` | Weights to start from" in page
    assert "| `schedule` | `cosine` or `linear` or `constant` or `wsd` | `cosine` |" in page
    assert "| `ramp` | list of: whole number, at least 1 | `[]` |" in page


def test_a_setting_that_says_nothing_of_itself_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gpt2jax/config/model.py"
    text = (ROOT / name).read_text(encoding="utf-8")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text.replace('    """Attention heads; must divide n_embd."""\n', ""))
    monkeypatch.setattr(module("reference"), "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"model\.n_head: has no docstring"):
        module("reference").settings()


def test_every_command_stands_in_the_reference() -> None:
    reference = module("reference")
    page = reference.commands()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## gpt2jax {verb}" for verb in reference.verbs()
    ]
    assert "--training.batch-size" in page.partition("## gpt2jax train")[2].partition("## ")[0]
    assert max(map(len, page.splitlines())) <= reference.COLUMNS
    assert "\x1b" not in page


def test_every_module_has_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = module("reference")
    rooms = {room.name: room.modules for room in reference.rooms()}
    assert rooms["attention"] == ["gpt2jax.attention", "gpt2jax.kernels"]
    assert "gpt2jax.evaluate.tasks.lambada" in rooms["evaluate"] or "gpt2jax.evaluate.rows" in rooms["evaluate"]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (tmp_path / "gpt2jax").symlink_to(ROOT / "gpt2jax")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "architecture.md").write_text(page.replace("`attention.py`, `kernels.py`", "`attention.py`"))
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"All rooms: gpt2jax\.kernels: only there, or missing there"):
        reference.rooms()


def test_names_in_docstrings_become_links() -> None:
    docstrings = module("docstrings")
    code = '"""M."""\n\ndef f():\n    """See {}."""\n\ndef g():\n    """G."""\n\ndef _h():\n    """H."""\n'

    def linked(role: str) -> str:
        with griffe.temporary_visited_package(
            "made", {"__init__.py": code.format(role)}, extensions=griffe.load_extensions(docstrings.Roles)
        ) as package:
            docstring = package["f"].docstring
            assert docstring is not None
            return docstring.value

    assert linked(":func:`g`") == "See [`g`][made.g]."
    assert linked(":func:`~made.g`") == "See [`g`][made.g]."
    assert linked(":func:`_h`") == "See `_h`."


def test_a_docstring_that_names_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    docstrings = module("docstrings")
    code = '"""See :func:`nothing`."""\n'
    with griffe.temporary_visited_package(
        "made", {"__init__.py": code}, extensions=griffe.load_extensions(docstrings.Roles)
    ):
        assert "made: :func:`nothing`: there is no such name" in caplog.text


def test_every_page_is_in_the_navigation() -> None:
    """One that is not ends `make docs` with a warning."""
    text = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[:-] ([\w/]+\.md)$", text, re.M))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed
    assert {"index.md", "coming_from/nanogpt.md"} <= pages
    assert (
        "quiet" not in (ROOT / "Makefile").read_text(encoding="utf-8").partition("mkdocs build")[2].partition("\n")[0]
    )
