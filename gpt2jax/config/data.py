"""What is trained on."""

from typing import Literal

from gpt2jax.fields import Count, CountOrZero, settings


@settings("data")
class DataConfig:
    """The token shards to train on."""

    path: str = "data/pydoc"
    """Folder that `gpt2jax prepare` wrote, or one with nanoGPT's or llm.c's .bin files."""
    tokenizer: Literal["auto", "gpt2", "bytes"] = "auto"
    """Which vocabulary the shards are in; auto reads it from the folder's meta.json."""
    read_threads: CountOrZero = 2
    """Threads that read windows ahead of the training step."""
    read_buffer: Count = 32
    """Windows read ahead."""
