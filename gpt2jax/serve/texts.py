"""A text on its way through the server: what is asked, what it gains, and why it cannot be written."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.request import Finish, Request, Row
from gpt2jax.generate.stream import TextStream


class QueueFullError(GPT2JaxError):
    """As many texts wait as may."""


class ClosedError(GPT2JaxError):
    """No more texts are taken."""


class Token(NamedTuple):
    """One that was drawn, or forced."""

    token: int
    log_prob: float
    """Under the model alone; NaN where it was forced."""
    top: list[tuple[int, float]]
    """The most probable ones with their log-probabilities, where asked for."""


class Piece(NamedTuple):
    """What a text gains."""

    text: str
    tokens: list[Token]
    """That were drawn since the piece before; of text that is held back, too."""
    finish: Finish | None
    """Set on the last piece."""
    stop_log_prob: float | None = None
    """Of the token that stopped it, on the last piece, when one has."""


Listener = Callable[[Piece | Exception], None]
"""Told of each piece, on the scheduler's thread; of an exception, once, if the text cannot be finished."""


@dataclasses.dataclass(eq=False)
class Text:
    """One that waits, is read, or is written."""

    request: Request
    listener: Listener
    alternatives: int
    row: Row
    stream: TextStream
    prompt: list[int]
    """What is to be read before (more of) the text can be drawn."""
    submitted: float
    """Seconds, by the clock of ``time.perf_counter``."""
    read: int = 0
    """Tokens of the prompt that have been read."""
    drawn_before: int = 0
    """Tokens of the row that are part of the prompt, or came before it."""
    told: int = 0
    """Tokens of the row that the listener has been told of."""
    latest: float = 0.0
    """When the newest token came."""
    cancelled: bool = False
