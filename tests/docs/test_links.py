"""What the documentation points at is there."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not link.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in links(page) if not (page.parent / link).exists()]
    assert not missing


def test_a_link_to_nothing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("[there](page.md) [not](other.md#part) [far](https://example.org)")
    assert links(tmp_path / "page.md") == ["page.md", "other.md"]


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_commands_in_the_heads_of_settings_name_files_that_are_there(recipe: Path) -> None:
    named = re.findall(r"configs/[\w/.-]+\.yaml", recipe.read_text(encoding="utf-8"))
    assert all((ROOT / name).exists() for name in named)
