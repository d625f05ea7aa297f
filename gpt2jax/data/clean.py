"""What of a corpus is left out on request, and why: each reason counted."""

import dataclasses
import re
from collections.abc import Iterator

from gpt2jax.data.sources import Document
from gpt2jax.errors import GPT2JaxError

# Words in a shingle: what two documents share is counted in runs of so many (Lee et al. 2022, appendix A).
SHINGLE = 5
_WORD = re.compile(r"\w+")
# As an address, or as the name of the part of a collection (The Pile, Dolma).
_WIKIPEDIA = re.compile(r"\bwikipedia\.org\b|\bwikipedia\b|\bwiki_?(en|20\d\d)", re.IGNORECASE)

SHORT, WIKIPEDIA, DUPLICATE, NEAR = "too short", "Wikipedia", "exact duplicates", "near duplicates"


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is left out."""

    min_characters: int = 0
    """Documents with fewer characters."""
    without_wikipedia: bool = False
    """Documents whose ``url`` or ``source`` field names Wikipedia, which WebText left out (Radford et al. 2019)."""
    exact_duplicates: bool = False
    """Documents that are, byte for byte, one before them."""
    near_duplicates: float = 0.0
    """Documents that share at least about this part of their runs of five words with one before them; 0: none."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            GPT2JaxError: naming the setting.
        """
        if self.min_characters < 0:
            raise GPT2JaxError(f"min characters: {self.min_characters}: should be at least 0")
        if self.near_duplicates and not 0.5 <= self.near_duplicates <= 1:
            raise GPT2JaxError(f"near duplicates: {self.near_duplicates}: should be from 0.5 to 1, or 0 for none")
        if self.near_duplicates:
            rensa()

    def refuses(self, document: Document) -> str | None:
        """Why a document is left out, by itself alone; None where it stays."""
        if self.without_wikipedia and _WIKIPEDIA.search(document.origin):
            return WIKIPEDIA
        return SHORT if len(document.text) < self.min_characters else None


def shingles(text: str) -> Iterator[str]:
    """Runs of five words, in lower case; a shorter text is one run."""
    words = _WORD.findall(text.lower())
    yield from (" ".join(words[at : at + SHINGLE]) for at in range(max(len(words) - SHINGLE + 1, 1)))


def rensa():  # type: ignore[no-untyped-def]
    """The package that finds near duplicates.

    Raises:
        GPT2JaxError: it is not there.
    """
    try:
        import rensa
    except ImportError:
        raise GPT2JaxError("near duplicates: need the package rensa: pip install 'gpt2jax[corpora]'") from None
    return rensa
