"""The streams of the paper: which text of each file is scored. Of several protocols the paper's, as far as it is known,
stands first.

The paper used de-tokenizers of its own that nobody else has seen, and says for no file which; where the notes beside a
protocol say "ours", it is of this package (:mod:`gpt2jax.evaluate.detokenize`).
"""

from collections.abc import Callable, Iterator

from gpt2jax.evaluate.detokenize.enwik8 import ENWIK8
from gpt2jax.evaluate.detokenize.lm1b import LM1B
from gpt2jax.evaluate.detokenize.pair import Detokenizer, detokenized
from gpt2jax.evaluate.detokenize.ptb import PTB, PTB_ONE, PTB_ONE_QUERY
from gpt2jax.evaluate.detokenize.published import megatron_rules, megatron_wikitext
from gpt2jax.evaluate.detokenize.wikitext import WIKITEXT
from gpt2jax.evaluate.find import Found
from gpt2jax.evaluate.job import Job, Setting
from gpt2jax.evaluate.readers.streams import read_lines, read_sentences, read_tail, read_text8
from gpt2jax.evaluate.tasks.streams import Protocol, Text, stream
from gpt2jax.evaluate.units import pages


def raw(original: str) -> Text:
    return Text([original])


def invertible(detokenizer: Detokenizer, each: bool = False) -> Callable[[str], Text]:
    """Lines de-tokenized where that can be undone: as one text, or ``each`` by itself."""

    def text(original: str) -> Text:
        # What follows the last newline is no line of the file.
        found = detokenized(original.removesuffix("\n").split("\n"), detokenizer)
        ends = ["\n"] * len(found.lines)
        if not original.endswith("\n"):
            ends[-1] = ""
        lines = [line + end for line, end in zip(found.lines, ends, strict=True)]
        return Text(lines if each else ["".join(lines)], (found.described(),))

    return text


_OURS = "our invertible de-tokenizer"
_WIKITEXT = {
    "invertible": Protocol("invertible", _OURS, invertible(WIKITEXT), "words+newlines"),
    "raw": Protocol("raw", "the file as it is", raw, "words+newlines", prefix=False),
    "megatron": Protocol(
        "megatron",
        "Megatron-LM's de-tokenizer, which loses what it changes",
        lambda original: Text([megatron_wikitext(original)]),
        "split-on-spaces",
        prefix=False,
    ),
    "whole": Protocol("raw, no overlap", "the file as it is", raw, "words+newlines", windows="whole", prefix=False),
    "pages": Protocol(
        "pages",
        "each article by itself, lm-evaluation-harness' de-tokenizer, which loses what it changes",
        lambda original: Text([megatron_rules(page) for page in pages(original)]),
        "words-by-page",
        windows="rolling",
    ),
}


def wikitext2(found: Found, setting: Setting) -> Iterator[Job]:
    ways = [_WIKITEXT[name] for name in ("invertible", "raw", "megatron", "whole", "pages")]
    return stream("wikitext2", "wikitext2", _lines(found, setting), found, setting, ways)


def wikitext103(found: Found, setting: Setting) -> Iterator[Job]:
    """The file as it is comes first: so A. Radford is quoted for the paper's smallest model (karpathy/llm.c #276)."""
    ways = [_WIKITEXT[name] for name in ("raw", "invertible", "megatron", "whole")]
    return stream("wikitext103", "wikitext103", _lines(found, setting), found, setting, ways)


def wikitext_raw(found: Found, setting: Setting) -> Iterator[Job]:
    """lm-evaluation-harness' `wikitext`, and what the documentation of transformers computes, per token."""
    ways = [_WIKITEXT[name] for name in ("pages", "raw", "whole")]
    return stream("wikitext-raw", None, _lines(found, setting), found, setting, ways)


def ptb(found: Found, setting: Setting) -> Iterator[Job]:
    ways = [
        Protocol("invertible", _OURS, invertible(PTB), "words+newlines"),
        Protocol("raw", "the file as it is", raw, "words+newlines"),
        Protocol("N as 1", f"{_OURS}, N as 1", invertible(PTB_ONE), "words+newlines"),
        Protocol("N as 1, <unk> as ?", f"{_OURS}, N as 1, <unk> as ?", invertible(PTB_ONE_QUERY), "words+newlines"),
        Protocol("words only", f"{_OURS}; ends of lines are no units", invertible(PTB), "words"),
    ]
    return stream("ptb", "ptb", _lines(found, setting), found, setting, ways)


def enwik8(found: Found, setting: Setting) -> Iterator[Job]:
    """The last 5,000,000 bytes. A character of the text that the tasks pass on is a byte (Latin-1)."""
    tail = setting.first(read_tail(found.data, found.where)).decode("latin-1")
    last = "the last 5,000,000 bytes"
    ways = [
        Protocol("invertible", f"{last}, {_OURS}", invertible(ENWIK8), "characters", metric="bits per byte"),
        Protocol("raw", f"{last} as they are", raw, "characters", metric="bits per byte"),
    ]
    return stream("enwik8", "enwik8", tail, found, setting, ways, latin_1=True)


def text8(found: Found, setting: Setting) -> Iterator[Job]:
    """The last 5,000,000 characters; nothing that could be undone would bring back its capitals and commas."""
    tail = setting.first(read_text8(found.data, found.where))
    way = Protocol("raw", "the last 5,000,000 characters", raw, "characters", metric="bits per character")
    return stream("text8", "text8", tail, found, setting, [way])


def one_billion_words(found: Found, setting: Setting) -> Iterator[Job]:
    """Sentences in an order without meaning: each by itself, or, as the paper may have done, as one text."""
    sentences = setting.first(read_sentences(found.data, found.where))
    original = "".join(f"{sentence}\n" for sentence in sentences)
    ways = [
        Protocol("sentences", f"each sentence by itself, {_OURS}", invertible(LM1B, each=True), "words+newlines"),
        Protocol("one text", _OURS, invertible(LM1B), "words+newlines"),
        Protocol("one text, raw", "the file as it is", raw, "words+newlines"),
    ]
    return stream("1bw", "1bw", original, found, setting, ways)


def _lines(found: Found, setting: Setting) -> str:
    return "".join(setting.first(read_lines(found.data, found.where)))
