"""Text to token shards: read, cut into train and validation, encode, write, in one pass over the corpus."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.corpora import Document, Source, digest, find_sources, read_documents
from gpt2jax.data.documents import MaskWriter
from gpt2jax.data.meta import FILE_NAME, Meta, SplitMeta, read_meta
from gpt2jax.data.shards import SHARD_TOKENS, Format, ShardWriter, Split
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import new_folder
from gpt2jax.progress import Report, bar

Tokenizer = Literal["gpt2", "bytes", "characters"]
Rows = Literal["stream", "documents"]
SplitRule = Literal["documents", "tail"]


def prepare(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: Tokenizer | tiktoken.Encoding = "gpt2",
    format: Format = "nanogpt",
    split: SplitRule = "documents",
    validation_fraction: float = 0.1,
    seed: int = 0,
    text_key: str = "text",
    shard_tokens: int = SHARD_TOKENS,
    end_of_text: bool = True,
    progress: Report | bool = True,
) -> Meta:
    """Write the token shards of a corpus and their meta.json into ``out``, or leave nothing there.

    ``<|endoftext|>`` stands after each document in nanoGPT's format and before each in llm.c's, as those programs
    place it; ``end_of_text=False`` leaves it out, and the character vocabulary has none. With ``split="tail"``,
    ``end_of_text=False`` and a single text file, the shards are those of nanoGPT's shakespeare and shakespeare_char.

    Of documents with a prompt and a completion, the completion alone teaches: see :mod:`gpt2jax.data.documents`.

    Args:
        sources: files, folders or ``pydoc``; see :mod:`gpt2jax.data.corpora`.
        out: the folder. If it holds shards made from the same contents by the same arguments, they are kept as they
            are and nothing is done.
        tokenizer: ``characters`` takes its alphabet from the corpus, sorted, in a pass of its own; an encoding is
            taken as it is.
        split: ``documents`` gives one document of every ``round(1 / validation_fraction)`` to validation, at a place
            drawn with ``seed``; ``tail`` gives it the last ``validation_fraction`` of the characters, cutting one
            document in two (each part then is a document). ``tail`` counts the characters in a pass of its own.
        validation_fraction: at most 0.5; 0 holds nothing out.
        text_key: the key of the text in .jsonl files.
        shard_tokens: most tokens in a file, in llm.c's format.
        progress: a function to call after each document with the bytes of the sources done and in all, or whether
            to draw a bar when stderr is a terminal.

    Raises:
        GPT2JaxError: bad arguments, unreadable sources, a split without documents, or ``out`` holds something else.
    """
    out = Path(out)
    if not 0 <= validation_fraction <= 0.5:
        raise GPT2JaxError(f"validation fraction: {validation_fraction}: should be at least 0 and at most 0.5")
    if seed < 0:
        raise GPT2JaxError(f"seed: {seed}: should be at least 0")
    found = find_sources(sources)
    vocabulary = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizers.to_spec(tokenizer))
    fingerprint = _fingerprint(
        found, vocabulary, format, split, validation_fraction, seed, text_key, shard_tokens, end_of_text
    )
    existing = _existing(out, fingerprint)
    if existing is not None:
        return existing

    characters = 0
    alphabet: set[str] = set()
    if tokenizer == "characters" or (split == "tail" and validation_fraction):
        for document in read_documents(found, text_key):
            characters += len(document.text)
            alphabet.update(document.text, document.prompt or "")
    encoding = _encoding(tokenizer, alphabet) if isinstance(tokenizer, str) else tokenizer
    # Of documents that have prompts, completions alone teach, and each keeps its prompt in sight.
    rows: Rows = "stream" if next(read_documents(found, text_key)).prompt is None else "documents"
    if rows == "documents":
        _check_prompts(format, split, validation_fraction, encoding, end_of_text)

    with bar("Encoding", progress) as report, new_folder(out) as folder:
        documents = _reported(read_documents(found, text_key), report, sum(source.size for source in found))
        if not validation_fraction:
            parts: Iterator[tuple[Split, Document]] = (("train", document) for document in documents)
        elif split == "documents":
            parts = _split_documents(documents, round(1 / validation_fraction), seed)
        else:
            # int() and the product as in nanoGPT's prepare.py, so that the cut is at the same character.
            parts = _split_tail(documents, int(characters * (1 - validation_fraction)))
        kept: tuple[Split, ...] = ("train", "validation") if validation_fraction else ("train",)
        splits = _write(parts, folder, out.name, encoding, format, shard_tokens, end_of_text, kept, rows)
        meta = Meta(
            tokenizer=tokenizers.to_spec(encoding),
            n_vocab=encoding.n_vocab,
            format=format,
            train=splits["train"],
            validation=splits.get("validation"),
            sources=tuple(sources),
            text_key=text_key,
            split=split,
            validation_fraction=float(validation_fraction),
            seed=seed,
            end_of_text=end_of_text,
            shard_tokens=shard_tokens,
            source_sha256=fingerprint,
            rows=rows,
        )
        (folder / FILE_NAME).write_text(meta.to_json(), encoding="utf-8", newline="")
    return meta


def _fingerprint(found: Sequence[Source], *arguments: str | float | bool) -> str:
    """sha256 of everything that shapes the shards: contents, not names, so that a corpus may be moved."""
    contents = [(digest(source), source.json_lines) for source in found]
    return hashlib.sha256(json.dumps([contents, *arguments]).encode()).hexdigest()


def made_from(meta: Meta, sources: Sequence[str]) -> bool:
    """Whether shards that were prepared in a given encoding are of these sources, wherever these lie by now.

    Raises:
        GPT2JaxError: the sources cannot be read.
    """
    arguments = (meta.format, meta.split, meta.validation_fraction, meta.seed, meta.text_key, meta.shard_tokens)
    found, vocabulary = find_sources(sources), json.dumps(meta.tokenizer)
    return meta.source_sha256 == _fingerprint(found, vocabulary, *arguments, meta.end_of_text)


def _existing(out: Path, fingerprint: str) -> Meta | None:
    """The meta of a folder that is ready already; None if there is nothing in it."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise GPT2JaxError(f"{out}: a file is in the way: should be a folder, or nothing yet")
    if not any(out.iterdir()):
        return None
    meta = read_meta(out)
    if meta is None or meta.source_sha256 != fingerprint:
        raise GPT2JaxError(f"{out}: not empty, and not made from these sources and settings: remove it or name another")
    meta.check(out)
    return meta


def _encoding(name: Tokenizer, alphabet: set[str]) -> tiktoken.Encoding:
    if name == "characters":
        return tokenizers.characters("".join(sorted(alphabet)))
    return tokenizers.from_spec({"name": name})


def _check_prompts(
    format: Format, split: SplitRule, validation_fraction: float, encoding: tiktoken.Encoding, end_of_text: bool
) -> None:
    for name, value, wanted in (("format", format, "nanogpt"), ("split", split, "documents")):
        if value != wanted and (name == "format" or validation_fraction):
            raise GPT2JaxError(f"{name}: {value!r}: should be {wanted!r} for documents with a prompt and a completion")
    if not end_of_text or tokenizers.end_of_text(encoding) is None:
        raise GPT2JaxError("end of text: is left out: should end each completion, or nothing would teach where to stop")


def _split_documents(documents: Iterable[Document], block: int, seed: int) -> Iterator[tuple[Split, Document]]:
    """One document of every ``block``, at a random place in it, is for validation: an exact share, in one pass."""
    chosen = 0
    for index, document in enumerate(documents):
        if index % block == 0:
            chosen = int(np.random.default_rng((seed, index // block)).integers(block))
        yield "validation" if index % block == chosen else "train", document


def _split_tail(documents: Iterable[Document], cut: int) -> Iterator[tuple[Split, Document]]:
    """The first ``cut`` characters of the corpus are for training, the others for validation."""
    for document in documents:
        head, tail = document.text[:cut], document.text[cut:]
        cut -= len(head)
        if head:
            yield "train", document._replace(text=head)
        if tail:
            yield "validation", document._replace(text=tail)


def _write(
    parts: Iterable[tuple[Split, Document]],
    folder: Path,
    name: str,
    encoding: tiktoken.Encoding,
    format: Format,
    shard_tokens: int,
    end_of_text: bool,
    kept: Sequence[Split],
    rows: Rows,
) -> dict[Split, SplitMeta]:
    """Encode every document and write it to its split, of those that are ``kept``."""
    token = tokenizers.end_of_text(encoding) if end_of_text else None
    mark = np.array([] if token is None else [token], dtype=np.uint32)
    documents: dict[Split, int] = dict.fromkeys(kept, 0)
    text_bytes: dict[Split, int] = dict.fromkeys(kept, 0)
    with contextlib.ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder, name, split, format, encoding.n_vocab, shard_tokens))
            for split in documents
        }
        masks: dict[Split, MaskWriter] = {}
        for split, document in parts:
            tokens_T = tokenizers.encode_corpus(encoding, document.text)
            if (document.prompt is not None) != (rows == "documents"):
                raise GPT2JaxError("sources: should have a prompt in every document or in none of them")
            if document.prompt is None:
                writers[split].write(np.concatenate([tokens_T, mark] if format == "nanogpt" else [mark, tokens_T]))
            else:
                # Apart, as a prompt is when text is generated from it; an empty one is <|endoftext|> there.
                prompt_T = tokenizers.encode_corpus(encoding, document.prompt) if document.prompt else mark
                writers[split].write(np.concatenate([prompt_T, tokens_T, mark]))
                if split not in masks:
                    masks[split] = stack.enter_context(MaskWriter(folder / writers[split].files[0]))
                masks[split].write(np.arange(prompt_T.size + tokens_T.size + mark.size) >= prompt_T.size)
            documents[split] += 1
            text_bytes[split] += len(document.text.encode())
    for split, count in documents.items():
        if not count:
            total = sum(documents.values())
            raise GPT2JaxError(
                f"{split}: no documents among the corpus's {total}: should be at least one; use --split tail,"
                " or another validation fraction"
            )
    return {
        split: SplitMeta(tuple(writer.files), writer.tokens, documents[split], text_bytes[split])
        for split, writer in writers.items()
    }


def _reported(documents: Iterable[Document], report: Report, total: int) -> Iterator[Document]:
    """``documents``, with a report after each has been dealt with."""
    done = 0
    for document in documents:
        yield document
        done += document.source_bytes
        report(done, total)
