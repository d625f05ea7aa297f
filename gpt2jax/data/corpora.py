"""A corpus: where its text comes from (:mod:`gpt2jax.data.sources`), and its documents, one after the other."""

from collections.abc import Iterator, Sequence

from gpt2jax.data.readers import read_unit
from gpt2jax.data.sources import PYDOC, SUFFIXES, Document, Reading, Source, digest, find_sources, no_text
from gpt2jax.data.units import whole

__all__ = ["PYDOC", "SUFFIXES", "Document", "Reading", "Source", "digest", "find_sources", "read_documents"]


def read_documents(
    sources: Sequence[Source], text_key: str = "text", reading: Reading | None = None
) -> Iterator[Document]:
    """The documents of ``sources``, one at a time; empty ones are left out, and line ends stay as they are.

    A plain file is one document; a long one comes in pieces, of which all but the first continue it. A .jsonl file
    holds a document on each line, an object with the text under ``text_key``, or, if it has no such key, with
    ``prompt`` and ``completion``; blank lines are allowed. A .csv or .parquet file has one in each row. The embedded
    corpus has one document per topic of the language reference.

    Args:
        reading: all of how they are read, instead of ``text_key`` alone.

    Raises:
        GPT2JaxError: not UTF-8 (naming the byte), not such a line (naming it), or no text in the whole corpus.
    """
    found = False
    for source in sources:
        for document in read_unit(whole(source), reading or Reading(text_key)):
            found = True
            yield document
    if not found:
        raise no_text(sources)
