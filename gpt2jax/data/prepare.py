"""Text to token shards: sources, units of work, their documents encoded into parts, the parts joined into shards.

Each unit is encoded by itself, in whichever process or machine, and stays done; joining them in order makes the same
bytes whoever did which, and in how many attempts.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tiktoken

from gpt2jax import tokenizer as tokenizers
from gpt2jax.data.clean import Cleaning
from gpt2jax.data.encode import mixed_prompts
from gpt2jax.data.jobs import Jobs, find, jobs_of, refuse_if_full, standard_input
from gpt2jax.data.join import Shape, join
from gpt2jax.data.meta import FILE_NAME, Meta
from gpt2jax.data.order import Order, Tokenizer, existing, made_from, not_default
from gpt2jax.data.parts import Parts, Record, locked, placed
from gpt2jax.data.shards import SHARD_TOKENS, TOKENS, Format, TokenBits
from gpt2jax.data.sources import STDIN, InputFormat, Reading
from gpt2jax.data.splits import SplitRule
from gpt2jax.data.units import UNIT_BYTES
from gpt2jax.data.work import digests, encode_all
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import remove_folder
from gpt2jax.progress import Report, bar

__all__ = ["Order", "SplitRule", "Tokenizer", "made_from", "prepare", "prepare_share"]

Say = Callable[[str], None]


def _quiet(line: str) -> None:
    """Says nothing."""


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
    validation_sources: Sequence[str] = (),
    validation_tokens: int = 0,
    token_bits: TokenBits = 16,
    input_format: InputFormat = "auto",
    reading: Reading | None = None,
    cleaning: Cleaning | None = None,
    workers: int = 1,
    merge: bool = False,
    unit_bytes: int = UNIT_BYTES,
    provenance: dict[str, str] | None = None,
    say: Say = _quiet,
) -> Meta:
    """Write the token shards of a corpus and their meta.json into ``out``.

    ``<|endoftext|>`` stands after each document in nanoGPT's format and before each in llm.c's, as those programs
    place it; ``end_of_text=False`` leaves it out, and the character vocabulary has none. With ``split="tail"``,
    ``end_of_text=False`` and a single text file, the shards are those of nanoGPT's shakespeare and shakespeare_char.

    Of documents with a prompt and a completion, the completion alone teaches: see :mod:`gpt2jax.data.documents`.

    A corpus of several units of work leaves what it has done in ``.NAME.parts`` beside ``out`` when it is stopped or
    killed; the next call goes on from there, and removes it at the end. One of a single unit leaves nothing.

    Args:
        sources: files, folders, patterns, ``-``, ``hf:...`` or ``pydoc``; see :mod:`gpt2jax.data.sources`.
        out: the folder. If it holds shards made from the same contents by the same arguments, they are kept as they
            are and nothing is done.
        tokenizer: ``characters`` takes its alphabet from the corpus, sorted, in a pass of its own; an encoding is
            taken as it is.
        split: ``documents`` gives one document of every ``round(1 / validation_fraction)`` to validation, at a place
            drawn with ``seed``; ``hash`` each by a hash of its text, so that none moves when others come; ``tail`` the
            last ``validation_fraction`` of the characters, cutting one document in two (each part then is a document),
            which it counts in a pass of its own; ``first`` the first ``validation_tokens`` tokens, wherever that cuts.
        validation_fraction: at most 0.5; 0 holds nothing out.
        text_key: the key of the text in .jsonl files; with ``reading``, that says it.
        shard_tokens: most tokens in a file, in llm.c's format.
        progress: a function to call after each document with the bytes of the sources done and in all (after each unit
            where several processes work), or whether to draw a bar when stderr is a terminal.
        validation_sources: what is held out, instead of a share of ``sources``.
        token_bits: 32 is for vocabularies of more than 65,536 tokens.
        input_format: of files; by default their names tell.
        reading: how sources are read.
        cleaning: what is left out.
        workers: processes that encode. With more than one the caller's main module must be importable, as
            ``multiprocessing`` says.
        merge: join alone; all units must be done.
        unit_bytes: bytes of a source in a unit.
        provenance: kept in meta.json.
        say: called with what a person wants to know, a line at a time.

    Raises:
        GPT2JaxError: bad arguments, unreadable sources, a split without documents, no room on the disk, or ``out``
            holds something else.
    """
    order = Order(
        tuple(sources), tokenizer, format, split, validation_fraction, seed, shard_tokens, end_of_text,
        tuple(validation_sources), validation_tokens, token_bits, input_format,
        reading or Reading(text_key), cleaning or Cleaning(),
    )  # fmt: skip
    order.check()
    out = Path(out)
    with standard_input(sources, out) as names:
        found, apart = find(order, names)
        hashes = digests([*found, *apart], workers)
        fingerprint = order.fingerprint([*found, *apart], hashes, len(apart))
        ready = existing(out, fingerprint)
        if ready is not None:
            say(f"{out}: was made from these sources by these settings: nothing to do")
            remove_folder(_parts_of(out))  # Of one who was killed at the very end.
            return ready
        work = jobs_of(order, found, apart, hashes, unit_bytes, workers)
        with _parts_folder(out, len(work.jobs) > 1 or merge) as folder:
            parts = Parts(folder, TOKENS[token_bits])
            missing = _missing(parts, work, range(len(work.jobs)), say)
            if merge and missing:
                raise GPT2JaxError(
                    f"merge: {len(missing):,} of {len(work.jobs):,} units are not done, the first of them number"
                    f" {missing[0]}: of n shares it is in number {missing[0]} modulo n"
                )
            _encode(out, parts, work, missing, workers, progress, say)
            records = _records(parts, work)
            with placed(folder, out) as temporary:
                shape = Shape(out.name, format, shard_tokens, token_bits, order.rule, order.holds_out,
                              validation_fraction, seed, validation_tokens)  # fmt: skip
                joined = join(parts, records, shape, order.cleaning, work.encoding, temporary)
                meta = Meta(
                    tokenizer=tokenizers.to_spec(work.encoding),
                    n_vocab=work.encoding.n_vocab,
                    format=format,
                    train=joined.splits["train"],
                    validation=joined.splits.get("validation"),
                    sources=tuple(sources),
                    text_key=order.reading.text_key,
                    split=order.rule,
                    validation_fraction=float(validation_fraction),
                    seed=seed,
                    end_of_text=end_of_text,
                    shard_tokens=shard_tokens,
                    source_sha256=fingerprint,
                    rows=work.rows,
                    token_bits=token_bits,
                    index=joined.files,
                    cleaning=not_default(order.cleaning) or None,
                    dropped=joined.dropped or None,
                    read=sum(record.read for record in records),
                    provenance=provenance,
                )
                (temporary / FILE_NAME).write_text(meta.to_json(), encoding="utf-8", newline="")
            remove_folder(folder)
    return meta


def prepare_share(
    share: tuple[int, int],
    order: Order,
    out: str | Path,
    *,
    workers: int = 1,
    unit_bytes: int = UNIT_BYTES,
    progress: Report | bool = True,
    say: Say = _quiet,
) -> None:
    """Do the i-th of every n units of an order, and join nothing: :func:`prepare` with ``merge`` does, once all are
    done. Machines that do so at once need the same sources and the same folder around ``out``.

    Args:
        share: (i, n), i from 0 on.

    Raises:
        GPT2JaxError: as :func:`prepare` does.
    """
    number, count = share
    if not 0 <= number < count:
        raise GPT2JaxError(f"shard: {number}/{count}: should be from 0/{count} to {count - 1}/{count}")
    order.check()
    if STDIN in order.sources:
        raise GPT2JaxError("shard: standard input has no parts that several could read: write it to a file first")
    out = Path(out)
    found, apart = find(order, order.sources)
    hashes = digests([*found, *apart], workers)
    if existing(out, order.fingerprint([*found, *apart], hashes, len(apart))) is not None:
        say(f"{out}: was made from these sources by these settings: nothing to do")
        return
    work = jobs_of(order, found, apart, hashes, unit_bytes, workers)
    with _parts_folder(out, True, f"{number}-of-{count}") as folder:
        parts = Parts(folder, TOKENS[order.token_bits])
        mine = range(number, len(work.jobs), count)
        _encode(out, parts, work, _missing(parts, work, mine, say), workers, progress, say)
    say(f"shard {number}/{count}: {len(mine):,} of {len(work.jobs):,} units are done, in {folder}")


def _parts_of(out: Path) -> Path:
    return out.parent / f".{out.name}.parts"


@contextlib.contextmanager
def _parts_folder(out: Path, stays: bool, share: str | None = None) -> Iterator[Path]:
    """Where parts are kept: until the next attempt if it ``stays``, else until the end of this one. It is locked."""
    stale = out.parent.glob(f"{_parts_of(out).name}.????????")
    for left in stale:  # Of one who was killed; who still works there has the lock.
        with contextlib.suppress(GPT2JaxError), locked(left):
            remove_folder(left)
    if stays:
        with locked(_parts_of(out), share):
            yield _parts_of(out)
        return
    folder = _parts_of(out).with_name(f"{_parts_of(out).name}.{uuid.uuid4().hex[:8]}")
    try:
        with locked(folder):
            yield folder
    finally:
        remove_folder(folder)


def _missing(parts: Parts, work: Jobs, mine: Sequence[int], say: Say) -> list[int]:
    missing = [number for number in mine if parts.record(work.keys[number]) is None]
    if len(missing) < len(mine):
        say(f"{parts.folder}: {len(mine) - len(missing):,} of {len(mine):,} units are done already")
    return missing


def _encode(
    out: Path, parts: Parts, work: Jobs, missing: Sequence[int], workers: int, progress: Report | bool, say: Say
) -> None:
    if not missing:
        return
    refuse_if_full(out, work, missing, say)
    began = time.monotonic()
    with bar("Encoding", progress) as report:
        some = [(work.jobs[number], work.keys[number]) for number in missing]
        encode_all(some, work.settings, work.encoding, parts.folder, workers, report, work.size)
    took = max(time.monotonic() - began, 1e-9)
    tokens = sum(record.tokens for number in missing if (record := parts.record(work.keys[number])))
    used = min(workers, len(missing))
    processes = "one process" if used == 1 else f"{used} processes"
    say(f"{tokens:,} tokens in {took:,.1f} s: {tokens / took:,.0f} a second, in {processes}")


def _records(parts: Parts, work: Jobs) -> list[Record]:
    """What is in every unit."""
    records = []
    for key in work.keys:
        record = parts.record(key)
        if record is None:
            raise GPT2JaxError(f"{parts.folder}: {key}: is gone, which was there: start again to make it anew")
        records.append(record)
    if len({record.prompts for record in records if record.rows}) > 1:
        raise mixed_prompts()
    return records
