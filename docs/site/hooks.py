"""What MkDocs calls while it builds the site: pages from outside docs/, the reference, links, the navigation."""

import tomllib
from pathlib import Path
from typing import Any

import reference
from links import DeadLinkError, rewrite
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results"
# Pages and pictures that GitHub shows where they stand, and the site as its own.
BROUGHT = [
    *sorted(path for path in (ROOT / RESULTS).iterdir() if path.suffix in (".md", ".png", ".svg")),
    *(ROOT / name for name in ("MODEL_CARD.md", "CONTRIBUTING.md")),
]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add what is not listed in mkdocs.yml to the navigation."""
    sections: dict[str, list[Any]] = {name: pages for entry in config.nav or [] for name, pages in entry.items()}
    sections["Reference"].append({"API": [{room.name: room.page} for room in reference.rooms()]})
    measured = [path.relative_to(ROOT).as_posix() for path in BROUGHT if path.suffix == ".md" and path.parent != ROOT]
    sections["About"].append({"Measured": measured})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and those of the reference."""
    for path in BROUGHT:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    made = {"reference/settings.md": reference.settings(), "reference/commands.md": reference.commands()}
    made |= {room.page: room.text() for room in reference.rooms()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the page's links into links of the site."""
    if page.file.abs_src_path is None:  # Of the reference: made for the site.
        return markdown
    pages = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    source = Path(page.file.abs_src_path).resolve()
    with (ROOT / "pyproject.toml").open("rb") as file:
        repository = tomllib.load(file)["project"]["urls"]["Repository"]
    try:
        return rewrite(markdown, source, page.file.src_uri, pages, ROOT, repository)
    except DeadLinkError as error:
        raise PluginError(str(error)) from None
