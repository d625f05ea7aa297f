"""enwik8, a dump of Wikipedia in XML: the four entities of its text read as the characters that they stand for.

``&lt;ref&gt;`` becomes ``<ref>``, ``&quot;`` a quote, ``&amp;nbsp;`` the ``&nbsp;`` that an editor typed. The way back
escapes every such character but those of the dump's own tags, which begin and end lines; ``&amp;lt;`` stays, since
unescaped once it would read as a ``<`` not yet unescaped.

A line is text in which each character is one byte (``data.decode("latin-1")``): the part of the file that is scored
may begin and end within a character of UTF-8. All that changes is ASCII, so ``encode("latin-1")`` gives the bytes of
the de-tokenized text.
"""

import re

from gpt2jax.evaluate.detokenize.pair import Pair

_CHARACTERS = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}
_ENTITIES = {character: entity for entity, character in _CHARACTERS.items()}
_ENTITY = "&(?:lt|gt|quot|amp);"

# Of the dump itself; the text's own are escaped.
_TAG = (
    "mediawiki|siteinfo|sitename|base|generator|case|namespaces|namespace|page|title|id|restrictions|revision|timestamp|"
    "contributor|username|ip|minor|comment|text"
)
_FIRST = re.compile(rf' *</?(?:{_TAG})(?: [\w:.-]+="[^"<>]*")* ?/?>')
_LAST = re.compile(rf"</(?:{_TAG})>$")


def _unescape(line: str) -> str:
    return re.sub(rf"{_ENTITY}(?<!&amp;)|&amp;(?!(?:lt|gt|quot|amp);)", lambda found: _CHARACTERS[found[0]], line)


def _escape(text: str) -> str:
    first = _FIRST.match(text)
    start = first.end() if first else 0
    last = _LAST.search(text, start)
    end = last.start() if last else len(text)
    escaped = re.sub(rf'{_ENTITY}|[&<>"]', lambda found: _ENTITIES.get(found[0], found[0]), text[start:end])
    return text[:start] + escaped + text[end:]


ENWIK8 = Pair("enwik8", _unescape, _escape)
