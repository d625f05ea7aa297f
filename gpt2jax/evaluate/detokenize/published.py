"""De-tokenizers that published figures were made with; they lose what they change and serve to compare with those.

Megatron-LM's for WikiText, which EleutherAI's lm-evaluation-harness has taken over: the former reads a whole file
without the white space at its ends, the latter each page. They join all that looks like a pair of quotes or brackets
(also from one genitive to the next), write ``N`` as ``1`` and glue ``s '`` wherever it stands. One rule of theirs, for
an apostrophe and a digit between two slashes, finds nothing in WikiText2's test file and is left out.
"""

import re

_PAIRS = [("(", ")"), ("[", "]"), ("{", "}"), ('"', '"'), ("'", "'")]

# Patterns and what they become, in this order; \s may be the end of a line.
_RULES = [
    (r"s '", "s'"),
    *[(rf" @{re.escape(mark)}@ ", mark) for mark in "-,."],
    *[(rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"],
    *[(rf"\{first}\s*([^\{last}]*?)\s*\{last}", rf"{first}\1{last}") for first, last in _PAIRS],
    *[(" ".join("=" * marks), "=" * marks) for marks in (4, 3, 2)],
    (r" \u00b0 ", "\u00b0"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
]


def megatron_rules(text: str) -> str:
    """WikiText's spelling undone by Megatron-LM's rules; a whole file, a page or a line."""
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return text


def megatron_wikitext(file: str) -> str:
    """A WikiText file as Megatron-LM's zero-shot evaluation reads it."""
    return megatron_rules(file.strip())
