"""What is trained on."""

from typing import Annotated, Literal

from pydantic import Field

from gpt2jax.fields import Count, CountOrZero, NotEmpty, Probability, settings


@settings("data")
class DataConfig:
    """The token shards to train on."""

    path: str = "data/pydoc"
    """Folder that `gpt2jax prepare` wrote, or one with nanoGPT's or llm.c's .bin files. Or text, a file or a folder of
    text as `gpt2jax prepare` takes them: the run then prepares it itself, into RUN/data."""
    tokenizer: Literal["auto", "gpt2", "bytes"] = "auto"
    """Which vocabulary the shards are in; auto reads it from the folder's meta.json, and takes that of the weights of
    training.init_from for text."""
    validation_fraction: Annotated[Probability, Field(le=0.5)] = 0.1
    """Of text that the run prepares itself: the share that is held out for validation; 0 holds nothing out."""
    mixture: tuple[NotEmpty, ...] = ()
    """Several folders of shards instead of data.path, as PATH=WEIGHT: each gives its weight's share of the windows
    trained on, however large it is; one that ends begins anew, in another order."""
    document_mask: bool = False
    """Confine attention to the document that a token is of; the original lets it see what else is in its window.
    Positions count on through the window, as in the original."""
    read_threads: CountOrZero = 2
    """Threads that read windows ahead of the training step."""
    read_buffer: Count = 32
    """Windows read ahead."""
