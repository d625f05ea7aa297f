"""A tiny model to serve, and what it should answer."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.request import Request
from gpt2jax.generate.text import Sample, TextModel
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition
from gpt2jax.serve.scheduler import Scheduler
from gpt2jax.serve.texts import Piece, Token

CONFIG = ModelConfig(n_vocab=257, n_ctx=128, n_embd=32, n_head=4, n_layer=2)


def tiny_params(config: ModelConfig = CONFIG) -> Params:
    """Random weights, wide enough apart that texts differ from each other."""
    params = parameters.init(jax.random.key(0), config)
    return jax.tree.map(lambda leaf: leaf * 6 if leaf.ndim > 1 else leaf, params)


def tiny_writer(place: Partition | None = None, n_ctx: int = CONFIG.n_ctx) -> TextModel:
    config = dataclasses.replace(CONFIG, n_ctx=n_ctx)
    params = tiny_params(config)
    if place:
        params = jax.device_put(params, place.params())
    return TextModel.from_params(params, config, tokenizer.byte_level(), place)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: Exception | None = None
        self.ended = threading.Event()

    def __call__(self, piece: Piece | Exception) -> None:
        if isinstance(piece, Exception):
            self.error = piece
        else:
            self.pieces.append(piece)
        if self.error or self.pieces[-1].finish:
            self.ended.set()

    def wait(self) -> "Heard":
        assert self.ended.wait(60), "no end after a minute"
        if self.error:
            raise self.error
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> list[Token]:
        return [token for piece in self.pieces for token in piece.tokens]


@contextmanager
def scheduler_of(writer: TextModel, **settings: Any) -> Iterator[Scheduler]:
    scheduler = Scheduler(writer, **({"slots": 4, "queue": 100, "chunk": 16} | settings))
    scheduler.start()
    try:
        yield scheduler
    finally:
        assert scheduler.close(60)


def offline(writer: TextModel, prompt: str, sampling: SamplingConfig, alternatives: int = 0) -> Sample:
    """What the batch engine writes."""
    return writer.sample([prompt], sampling, alternatives=alternatives)[0][0]


def request(writer: TextModel, prompt: str, sampling: SamplingConfig, index: int = 0) -> Request:
    return Request(tuple(tokenizer.encode_prompt(writer.encoding, prompt)), sampling, index)
