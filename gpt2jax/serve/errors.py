"""What is answered when a request is not: errors in OpenAI's form, each with its status."""

from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gpt2jax.errors import GPT2JaxError
from gpt2jax.serve.guard import error_body
from gpt2jax.serve.texts import ClosedError, QueueFullError

# Seconds after which a client may try again, of answers that say so.
RETRY_AFTER = {429: "1", 503: "5"}

Handler = Callable[[fastapi.Request, Any], Awaitable[JSONResponse]]


class LeftError(Exception):
    """The client has closed the connection."""


class UnknownModelError(GPT2JaxError):
    """A model that is not the served one."""

    def __init__(self, asked: str, name: str) -> None:
        super().__init__(f"model: {asked!r:.200}: is not served; should be {name!r}, or left out")


# Status and kind of error.
ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (QueueFullError, 429, "rate_limit_error"),
    (ClosedError, 503, "service_unavailable"),
    (GPT2JaxError, 422, "invalid_request_error"),
    (TimeoutError, 504, "timeout"),
)


def add_handlers(app: fastapi.FastAPI) -> None:
    """Have ``app`` answer so."""
    for error, status, kind in ERRORS:
        app.add_exception_handler(error, _handler(status, kind))
    app.add_exception_handler(UnknownModelError, _unknown_model)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(LeftError, _left)


def _handler(status: int, kind: str) -> Handler:
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else None

    async def handle(_: fastapi.Request, error: Exception) -> JSONResponse:
        message = str(error) or "timeout: the text was not done in the time that a request may take"
        return JSONResponse(error_body(message, kind), status, headers)

    return handle


async def _unknown_model(_: fastapi.Request, error: Any) -> JSONResponse:
    return JSONResponse(error_body(str(error), "invalid_request_error", "model", "model_not_found"), 404)


async def _invalid(_: fastapi.Request, error: Any) -> JSONResponse:
    """Of a RequestValidationError: the first thing that is wrong, by its name."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "extra_forbidden":
        message = f"{where}: unknown"
    elif first["type"] == "json_invalid":
        where = "body"
        message = f"body: no JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    else:
        shown = "" if first["type"] == "missing" else f"{first['input']!r:.200}: "
        message = f"{where}: {shown}{first['msg'].removeprefix('Input ').removeprefix('Value error, ')}"
    return JSONResponse(error_body(message, "invalid_request_error", where), 422)


async def _http_error(_: fastapi.Request, error: Any) -> JSONResponse:
    return JSONResponse(error_body(str(error.detail), "invalid_request_error"), error.status_code, error.headers)


async def _left(_: fastapi.Request, __: Any) -> JSONResponse:
    return JSONResponse(error_body("the client has left", "client_closed_request"), 499)
