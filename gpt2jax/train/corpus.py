"""What a run is trained on: token shards, or text that it makes into shards itself."""

import dataclasses
import itertools
from pathlib import Path

import tiktoken

from gpt2jax import tokenizer
from gpt2jax.config import Config
from gpt2jax.data.corpora import PYDOC, find_sources, read_documents
from gpt2jax.data.documents import DocumentWindows
from gpt2jax.data.meta import FILE_NAME, Meta, read_meta
from gpt2jax.data.mixture import open_mixture, parse
from gpt2jax.data.pipeline import Windows, holds_validation, open_split
from gpt2jax.data.prepare import SplitRule, made_from, prepare
from gpt2jax.data.sources import holds_text
from gpt2jax.distributed import all_agree, is_primary
from gpt2jax.errors import GPT2JaxError
from gpt2jax.files import remove_folder
from gpt2jax.weights.sources import open_weights


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The data of a run."""

    folder: Path | str
    """Its shards; of a mixture, all folders and their weights."""
    windows: Windows
    held_out: Windows | None
    """None where there is no validation split: the run then has no validation loss."""
    encoding: tiktoken.Encoding
    bytes_per_token: float | None
    """Of the validation split."""
    notes: tuple[str, ...]
    """What to say of it, a line each."""

    def prompts(self, count: int) -> list[str]:
        """Prompts of ``count`` examples that were held out (of training ones where none were); none where the data has
        no prompts."""
        windows = self.held_out or self.windows
        if not isinstance(windows, DocumentWindows):
            return []
        return [self.encoding.decode(prompt_P.tolist()) for prompt_P in windows.prompts(count)]


def open_corpus(config: Config) -> Corpus:
    """The data of ``config``; text is prepared into the run's folder first. Every process of several must call this.

    Raises:
        GPT2JaxError: there is none, it is not this model's or damaged, or text has changed since it was prepared.
    """
    model, data = config.model, config.data
    if data.mixture:
        return _mixed(config)
    folder, notes = Path(data.path), []
    out = Path(config.training.run_dir) / "data"
    if _is_text(data.path) or (not folder.exists() and _made_from(out, data.path)):
        folder, failure = out, None
        try:
            if is_primary():
                notes = _prepare(config, out)
        except GPT2JaxError as error:
            failure = error
        if not all_agree(failure is None):
            raise failure or GPT2JaxError(f"data.path: {data.path}: cannot be prepared (by another process)")
    windows, encoding, bytes_per_token = open_split(folder, "train", model.n_ctx, model.n_vocab, data.tokenizer)
    held_out = None
    if holds_validation(folder):
        held_out, _, bytes_per_token = open_split(folder, "validation", model.n_ctx, model.n_vocab, data.tokenizer)
    elif config.training.patience and folder != out:
        raise GPT2JaxError(
            f"training.patience: {config.training.patience}: waits for a validation loss, but {folder} holds nothing"
            " out: should be 0"
        )
    _check_documents(config, folder, encoding)
    return Corpus(folder, windows, held_out, encoding, bytes_per_token, tuple(notes))


def _mixed(config: Config) -> Corpus:
    model, data = config.model, config.data
    arguments = model.n_ctx, model.n_vocab, data.tokenizer
    windows, encoding, _ = open_mixture(data.mixture, "train", *arguments)
    held_out, _, bytes_per_token = open_mixture(data.mixture, "validation", *arguments)
    assert windows is not None  # Of training windows, none are left out.
    if held_out is None and config.training.patience:
        raise GPT2JaxError(
            f"training.patience: {config.training.patience}: waits for a validation loss, but nothing of data.mixture"
            " is held out: should be 0"
        )
    for folder, _ in parse(data.mixture):
        _check_documents(config, folder, encoding)
    return Corpus(", ".join(data.mixture), windows, held_out, encoding, bytes_per_token, ())


def _check_documents(config: Config, folder: Path, encoding: tiktoken.Encoding) -> None:
    """Refuse to confine attention to documents in what does not say where they begin."""
    if not config.data.document_mask:
        return
    meta = read_meta(folder)
    if tokenizer.end_of_text(encoding) != config.model.n_vocab - 1 or (meta is not None and not meta.end_of_text):
        raise GPT2JaxError(
            f"data.document_mask: true: should be false: {folder} has no <|endoftext|> that says where documents begin"
        )


def _is_text(name: str) -> bool:
    path = Path(name)
    if path.is_dir():
        shards = (path / FILE_NAME).exists() or any(path.glob("*.bin"))
        return not shards and holds_text(path)
    return path.is_file() or name == PYDOC


def _made_from(out: Path, name: str) -> bool:
    """Whether the shards in ``out`` were once made from a text of this name."""
    meta = read_meta(out) if out.is_dir() else None
    return meta is not None and meta.sources == (name,)


def _prepare(config: Config, out: Path) -> list[str]:
    """Make the shards, unless they are there; what to say of it."""
    text, wanted = config.data.path, config.data.validation_fraction
    before = read_meta(out) if out.is_dir() else None
    if before is not None and not _is_text(text):
        before.check(out)
        return [f"data.path: {text}: is gone; going on with what was made of it, in {out}"]
    if before is not None:
        instead = f"give another --training.run-dir, or remove {out} to go on with"
        if before.validation_fraction not in (0.0, wanted):
            raise GPT2JaxError(
                f"data.validation_fraction: {wanted:g}: {out} was made with {before.validation_fraction:g}; {instead}"
                " the new share"
            )
        if not made_from(before, [text]):
            raise GPT2JaxError(
                f"data.path: {text}: has changed since {out} was made, or is another text; {instead} this one"
            )
        before.check(out)
        return _too_small(config, before)
    encoding = _encoding(config)
    documents = (document for document in read_documents(find_sources([text])) if not document.continues)
    block = round(1 / wanted) if wanted else 1
    some = list(itertools.islice(documents, block))
    # One document of every so many, or, if they are few, the end of the last. A completion is not cut from its prompt.
    prompts = some[0].prompt is not None
    by_documents = len(some) == block
    tries: list[tuple[SplitRule, float]] = [("documents", wanted)] if by_documents else []
    tries += [] if prompts else [("tail", wanted)]
    window = 1 if prompts else config.model.n_ctx + 1
    for split, fraction in (*tries, ("documents" if prompts or by_documents else "tail", 0.0)):
        meta = prepare([text], out, tokenizer=encoding, split=split, validation_fraction=fraction)
        if meta.validation is None or meta.validation.tokens >= window:
            break
        remove_folder(out)
    notes = [f"prepared {text}: {meta.train.tokens:,} training tokens ({encoding.name}), in {out}"]
    return [*notes, *_too_small(config, meta)]


def _too_small(config: Config, meta: Meta) -> list[str]:
    wanted = config.data.validation_fraction
    if not wanted or meta.validation is not None:
        return []
    least = "example" if meta.rows == "documents" else f"window of model.n_ctx ({config.model.n_ctx}) + 1 tokens"
    return [
        f"warning: {config.data.path} is too small to hold out a validation set (a share of {wanted:g} of it is less"
        f" than one {least}): all of it is trained on, and there is no validation loss that tells of over-fitting"
        f"{' or that training.patience could wait for' if config.training.patience else ''}"
    ]


def _encoding(config: Config) -> tiktoken.Encoding:
    """The vocabulary to prepare text in: that of the weights to start from."""
    source, name = config.training.init_from, config.data.tokenizer
    if name != "auto":
        return tokenizer.from_spec({"name": name})
    if source:
        encoding = open_weights(source).origin.encoding
        if encoding is None:
            raise GPT2JaxError(
                f"data.tokenizer: 'auto': should be named: {source} does not say which vocabulary its tokens are of"
            )
        return encoding
    for encoding in (tokenizer.gpt2(), tokenizer.byte_level()):
        if config.model.n_vocab == encoding.n_vocab:
            return encoding
    raise GPT2JaxError(
        f"data.tokenizer: 'auto': should be named: none is known of model.n_vocab {config.model.n_vocab}"
    )
