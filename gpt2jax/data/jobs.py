"""An order to jobs: its sources, their units, and what must be known of the whole corpus before any is encoded."""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data import hub
from gpt2jax.data.corpora import read_documents
from gpt2jax.data.encode import Job, Piece, Settings, grouped
from gpt2jax.data.meta import Rows
from gpt2jax.data.order import Order
from gpt2jax.data.readers import read_unit
from gpt2jax.data.shards import TOKENS, check_sizes
from gpt2jax.data.sources import STDIN, Source, find_sources
from gpt2jax.data.units import Unit, plan, whole
from gpt2jax.data.work import surveys
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import new_file, refuse_if_no_space

# What a compressed file is taken to hold, for the estimate of the disk's need.
_EXPANSION = 4
# Bytes of text that it is made from.
_SAMPLE = 2**18


@dataclasses.dataclass(frozen=True)
class Jobs:
    """All the work of an order, in the corpus's order."""

    jobs: tuple[Job, ...]
    keys: tuple[str, ...]
    settings: Settings
    encoding: tiktoken.Encoding
    rows: Rows

    @property
    def size(self) -> int:
        return sum(job.size for job in self.jobs)


@contextlib.contextmanager
def standard_input(names: Sequence[str], out: Path) -> Iterator[list[str]]:
    """``names`` with standard input as a file beside ``out``, for as long as it is needed."""
    if STDIN not in names:
        yield list(names)
        return
    file = out.parent / f".{out.name}.stdin"
    try:
        with new_file(file) as partial, partial.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        yield [str(file) if name == STDIN else name for name in names]
    finally:
        file.unlink(missing_ok=True)


def find(order: Order, names: Sequence[str]) -> tuple[list[Source], list[Source]]:
    """The sources for training (or for both), and those for validation alone."""
    pinned = [hub.pinned(name) if name.startswith(hub.PREFIX) else name for name in names]
    apart = [hub.pinned(name) if name.startswith(hub.PREFIX) else name for name in order.validation_sources]
    return find_sources(pinned, order.input_format), find_sources(apart, order.input_format) if apart else []


def jobs_of(
    order: Order, found: Sequence[Source], apart: Sequence[Source], hashes: Sequence[str], unit_bytes: int, workers: int
) -> Jobs:
    """The jobs of an order.

    Args:
        hashes: of ``found``, then of ``apart``.

    Raises:
        GPT2JaxError: sources that cannot be read, or do not go with the order.
    """
    reading = order.reading
    units = [plan([source], reading, unit_bytes) for source in [*found, *apart]]
    digests = [digest for digest, some in zip(hashes, units, strict=True) for _ in some]
    flat = [unit for some in units for unit in some]
    for_training = sum(len(some) for some in units[: len(found)])
    cuts: list[int | None] = [None] * len(flat)
    if apart:
        cuts = [sys.maxsize if number < for_training else 0 for number in range(len(flat))]
    alphabet = set[str]()
    by_tail = not apart and order.split == "tail" and order.validation_fraction > 0
    if order.tokenizer == "characters" or by_tail:
        found_out = surveys(flat, reading, workers)
        alphabet.update(*(letters for _, letters in found_out))
        if by_tail:
            flat, cuts = _cut(flat, [count for count, _ in found_out], order.validation_fraction)
    encoding = order.tokenizer
    if isinstance(encoding, str):
        encoding = _encoding(encoding, alphabet)
    check_sizes(encoding.n_vocab, order.shard_tokens, order.token_bits)
    # Of documents that have prompts, completions alone teach, and each keeps its prompt in sight.
    prompts = next(read_documents([*found, *apart], reading=reading)).prompt is not None
    if prompts:
        _check_prompts(order, encoding)
    settings = Settings(
        tokenizer=json.dumps(tokenizers.to_spec(encoding)),
        reading=reading,
        cleaning=order.cleaning,
        token=TOKENS[order.token_bits].str,
        mark_first=order.format == "llmc",
        mark=tokenizers.end_of_text(encoding) if order.end_of_text else None,
    )
    jobs = tuple(grouped(map(Piece, flat, digests, cuts), unit_bytes))
    keys = tuple(job.key(settings) for job in jobs)
    return Jobs(jobs, keys, settings, encoding, "documents" if prompts else "stream")


def _cut(units: Sequence[Unit], characters: Sequence[int], fraction: float) -> tuple[list[Unit], list[int | None]]:
    """Of each unit the characters that are for training; where those end, a document ends."""
    # int() and the product as in nanoGPT's prepare.py, so that the cut is at the same character.
    left = int(sum(characters) * (1 - fraction))
    made, cuts = list(units), list[int | None]()
    for at, count in enumerate(characters):
        cuts.append(sys.maxsize if count <= left else left)
        left = max(left - count, 0)
        if at and cuts[at] == 0 and cuts[at - 1] == sys.maxsize:
            made[at - 1] = dataclasses.replace(made[at - 1], ends=True)
            made[at] = dataclasses.replace(made[at], begins=True)
    return made, cuts


def refuse_if_full(out: Path, work: Jobs, missing: Sequence[int], say: Callable[[str], None]) -> None:
    """Say how much of the disk is needed, by a sample of the text, and refuse what does not fit.

    Parts and shards are there at the same time, until the last are whole.

    Raises:
        GPT2JaxError: it does not fit.
    """
    width = TOKENS[16 if work.settings.token == "<u2" else 32].itemsize
    taken = tokens = 0
    for source in dict.fromkeys(piece.unit.source for job in work.jobs for piece in job.pieces):
        for document in read_unit(whole(source), work.settings.reading):
            text = document.text[:_SAMPLE]
            taken, tokens = taken + len(text.encode()), tokens + tokenizers.encode_corpus(work.encoding, text).size + 1
            if taken >= _SAMPLE:
                break
        if taken:  # The first that holds text will do; a later one that cannot be read is no reason not to begin.
            break
    rate = width * tokens / max(taken, 1)

    def size(numbers: Sequence[int]) -> int:
        held = (piece.unit for number in numbers for piece in work.jobs[number].pieces)
        return int(1.1 * rate * sum(unit.size * (_EXPANSION if unit.source.compression else 1) for unit in held))

    shards = size(range(len(work.jobs)))
    need = size(missing) + shards
    if any(job.pieces[0].unit.source.form == "hub" for job in work.jobs):
        say(
            f"{out}: how much of the disk it takes is not known beforehand: the hub does not say how long its texts are"
        )
    else:
        say(f"{out}: takes about {shards / 1e6:,.1f} MB, and {need / 1e6:,.1f} MB of the disk while it is made")
    refuse_if_no_space(out, need)


def _encoding(name: str, alphabet: set[str]) -> tiktoken.Encoding:
    if name == "characters":
        return tokenizers.characters("".join(sorted(alphabet)))
    return tokenizers.from_spec({"name": name})


def _check_prompts(order: Order, encoding: tiktoken.Encoding) -> None:
    if order.format != "nanogpt":
        raise GPT2JaxError(
            f"format: {order.format!r}: should be 'nanogpt' for documents with a prompt and a completion"
        )
    if order.rule in ("tail", "first") and order.holds_out:
        raise GPT2JaxError(
            f"split: {order.split!r}: should be 'documents' or 'hash' for documents with a prompt and a completion"
        )
    if not order.end_of_text or tokenizers.end_of_text(encoding) is None:
        raise GPT2JaxError("end of text: is left out: should end each completion, or nothing would teach where to stop")
