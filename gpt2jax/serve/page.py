"""The page at ``/``: a prompt, its text as it comes, and the risks beside it."""

import html
import re

from gpt2jax.risks import RISKS


def render(template: str, name: str) -> str:
    """The page of the model ``name``."""
    return template.replace("{{name}}", html.escape(name)).replace("{{risks}}", _as_html(RISKS))


def _as_html(text: str) -> str:
    """Headings, bold words and paragraphs, which is all the Markdown that the risks have."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        line = html.escape(" ".join(paragraph.split()))
        bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", line)
        parts.append(f"<h2>{bold.removeprefix('## ')}</h2>" if bold.startswith("## ") else f"<p>{bold}</p>")
    return "\n".join(parts)
