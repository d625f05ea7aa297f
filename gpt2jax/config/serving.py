"""How a model is served."""

from typing import Annotated

from pydantic import Field

from gpt2jax.fields import Count, CountOrZero, NotEmpty, Positive, settings

Port = Annotated[int, Field(ge=0, le=65535, strict=True)]


@settings("serving")
class ServingConfig:
    """Where the server listens, how much it does at once, and what it refuses."""

    host: NotEmpty = "127.0.0.1"
    """Address to listen on; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from everywhere."""
    port: Port = 8000
    """0 takes a free one, which the first line says."""
    name: NotEmpty | None = None
    """What clients call the model; by default the last part of MODEL."""
    slots: Count = 16
    """Texts that are written at once, in one step for all of them."""
    queue: CountOrZero = 256
    """Texts that may wait for a slot; past that a request gets 429."""
    chunk: Count = 128
    """Tokens of a prompt that are read between two steps, so that a long prompt does not stall other texts."""
    max_tokens: Count = 1024
    """Most new tokens that a request may ask for, for each text; past that it gets 422."""
    max_prompt_tokens: CountOrZero = 0
    """Most tokens of a prompt; 0: as many as the context holds with one more."""
    max_texts: Count = 128
    """Most texts in one request: prompts times samples."""
    max_body: Count = 1_048_576
    """Bytes of a request's body; past that it gets 413."""
    max_logprobs: CountOrZero = 5
    """Most probable tokens that may be asked for at each place."""
    timeout: Positive = 300.0
    """Seconds that a request may take, its waiting included; past that it gets 504."""
    body_timeout: Positive = 20.0
    """Seconds in which a request's body must have come; past that it gets 408."""
    stall_timeout: Positive = 60.0
    """Seconds in which a client whose answer fills what the system holds for it must make room for more, by taking some
    130 to 260 KB; past that its connection is closed, and its slots are free."""
    api_keys: NotEmpty | None = None
    """A file with a key a line that clients must send (Authorization: Bearer KEY); keys may also stand in the
    environment, GPT2JAX_API_KEYS, separated by commas. Without any, whoever reaches the server may use it."""
