"""What clients are sent, typed, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's form."""

    error: ErrorDetail


class Logprobs(BaseModel):
    """A list entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Completion(BaseModel):
    """OpenAI's form; streamed, each event is one, whose ``finish_reason`` is null until a choice ends."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian float32."""


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    status: str


class Ready(BaseModel):
    ready: bool


Responses = dict[int | str, dict[str, Any]]

_SAID = {
    400: "The request is no HTTP, or its body is no text",
    401: "The API key is missing or unknown",
    404: "The model is not the served one",
    408: "The body did not come in time",
    413: "The body is too large",
    422: "What was asked for cannot be done; the message names what, its value and what is allowed",
    429: "Too many texts wait",
    503: "The model is not ready, or has failed, or the server is ending",
    504: "It took longer than a request may",
}
_RETRY = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds after which to try again"}}


def refusals(*statuses: int) -> Responses:
    """How a route says no, for the OpenAPI document."""
    found: Responses = {}
    for status in statuses:
        found[status] = {"model": Error, "description": _SAID[status]}
        if status in (429, 503):
            found[status]["headers"] = _RETRY
    return found


READ = refusals(400, 401, 408, 413)
"""Of every route that needs a key."""
WORK = READ | refusals(422, 429, 503, 504)
"""Of every route that asks the model."""
COMPLETIONS: Responses = {
    200: {
        "model": Completion,
        "description": "A text for each prompt and draw; with `stream`, events that end with `data: [DONE]`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
VECTORS: Responses = {200: {"model": Embeddings, "description": "A vector for each text"}}


def probe(body: type[BaseModel]) -> Responses:
    """Of a route that says yes with 200 and no with 503, in the same form."""
    return {
        200: {"model": body, "description": "Yes"},
        503: {"model": body, "description": "No"},
    } | refusals(400, 408, 413)
