"""The routes."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from importlib import resources
from typing import Any, TypeVar

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from gpt2jax import __version__
from gpt2jax.errors import GPT2JaxError
from gpt2jax.risks import RISKS
from gpt2jax.serve import completions
from gpt2jax.serve.bodies import CompletionBody, EmbeddingBody, ScoreBody
from gpt2jax.serve.guard import error_body
from gpt2jax.serve.page import render
from gpt2jax.serve.scheduler import ClosedError, QueueFullError
from gpt2jax.serve.service import Service

T = TypeVar("T")

# Status and kind of error, the first that fits.
ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (QueueFullError, 429, "rate_limit_error"),
    (ClosedError, 503, "service_unavailable"),
    (GPT2JaxError, 422, "invalid_request_error"),
    (TimeoutError, 504, "timeout"),
)
# Seconds after which a client may try again, of answers that say so.
RETRY_AFTER = {429: "1", 503: "5"}


class LeftError(Exception):
    """The client has closed the connection."""


def make_app(service: Service) -> fastapi.FastAPI:
    """The application; the model's programs are compiled after it has started to listen."""
    serving = service.serving

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(asyncio.to_thread(service.start))
        yield
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.to_thread(service.scheduler.close)

    app = fastapi.FastAPI(
        title="gpt2jax",
        version=__version__,
        summary=f"{service.name}: text from a GPT-2",
        description=RISKS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    def need_ready() -> None:
        if not service.ready:
            raise ClosedError("the model is not ready: it is being compiled, or has failed")

    async def answer(request: fastapi.Request, work: Coroutine[Any, Any, T]) -> T:
        """``work``, in the time that it may take, for as long as the client waits."""
        try:
            need_ready()
        except ClosedError:
            work.close()
            raise
        async with asyncio.timeout(serving.timeout):
            return await _while_it_waits(request, work)

    for error, status, kind in ERRORS:
        app.add_exception_handler(error, _handler(status, kind))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(LeftError, _left)

    @app.post("/score", response_model=list[str], tags=["text"])
    async def score(body: ScoreBody, request: fastapi.Request) -> list[str]:
        """The model card's request: a text for each prompt."""
        sampling = body.sampling()
        prompts = [service.encode(prompt, sampling, number) for number, prompt in enumerate(body.input_data, 1)]
        requests = service.requests(prompts, sampling, sampling.best_of)
        samples = await answer(request, service.write(requests))
        best = [
            max(samples[first : first + sampling.best_of], key=lambda one: one.mean_log_prob)
            for first in range(0, len(samples), sampling.best_of)
        ]
        starts = body.input_data if sampling.return_full_text else [""] * len(best)
        return [start + sample.text for start, sample in zip(starts, best, strict=True)]

    @app.post("/v1/completions", response_model=None, tags=["text"])
    async def complete(body: CompletionBody, request: fastapi.Request) -> dict[str, Any] | StreamingResponse:
        """OpenAI's form of completions, whole or streamed."""
        if not body.stream:
            return await answer(request, completions.complete(service, body))
        need_ready()
        events = _timed(completions.stream(service, body), serving.timeout)
        try:  # What is wrong shows here, while there is still a status to say it.
            first = await _while_it_waits(request, _first(events))
        except BaseException:
            await events.aclose()
            raise
        return StreamingResponse(_chain(first, events), media_type="text/event-stream")

    @app.post("/v1/embeddings", tags=["features"])
    async def embed(body: EmbeddingBody, request: fastapi.Request) -> dict[str, Any]:
        """OpenAI's form of embeddings: final states of the model, their mean over a text or its last position's."""
        texts = [service.encode_text(text, number) for number, text in enumerate(body.inputs(), 1)]
        found = await answer(request, service.embed(texts, body.pool))
        used = sum(map(len, texts))
        data = [
            {
                "object": "embedding",
                "index": number,
                "embedding": base64.b64encode(one.astype("<f4").tobytes()).decode()
                if body.encoding_format == "base64"
                else one.tolist(),
            }
            for number, one in enumerate(found)
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {"object": "list", "data": data, "model": service.name, "usage": usage}

    @app.get("/v1/models", tags=["model"])
    async def models() -> dict[str, Any]:
        model = {"id": service.name, "object": "model", "created": service.started, "owned_by": "gpt2jax"}
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", tags=["model"])
    async def model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise HTTPException(404, f"model: {name!r}: should be {service.name!r}")
        return {"id": service.name, "object": "model", "created": service.started, "owned_by": "gpt2jax"}

    @app.get("/health", tags=["probes"])
    async def health() -> JSONResponse:
        """200 as long as the process can serve, once it can; 503 after a failure that it will not come back from."""
        failed = service.scheduler.failure
        return JSONResponse({"status": f"failed: {failed}" if failed else "ok"}, 503 if failed else 200)

    @app.get("/ready", tags=["probes"])
    async def is_ready() -> JSONResponse:
        """200 once every program is compiled."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["probes"])
    async def metrics() -> PlainTextResponse:
        """Prometheus' text format."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    page = render(resources.files("gpt2jax.serve").joinpath("page.html").read_text("utf-8"), service.name)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    return app


async def _while_it_waits(request: fastapi.Request, work: Coroutine[Any, Any, T]) -> T:
    """``work``, given up when the client leaves."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_leaves(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise LeftError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leaves(request: fastapi.Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _timed(events: AsyncGenerator[str], seconds: float) -> AsyncGenerator[str]:
    """``events``, the last of them an error when the time is up or something goes wrong on the way."""
    end, begun = asyncio.get_running_loop().time() + seconds, False
    try:
        while True:
            async with asyncio.timeout_at(end):
                event = await anext(events)
            begun = True
            yield event
    except StopAsyncIteration:
        return
    except (TimeoutError, GPT2JaxError) as error:
        if not begun:
            raise
        message = f"timeout: longer than {seconds:g} s" if isinstance(error, TimeoutError) else str(error)
        yield completions.event(error_body(message, "timeout" if isinstance(error, TimeoutError) else "server_error"))
    finally:
        await events.aclose()


async def _first(events: AsyncGenerator[str]) -> str:
    return await anext(events)


async def _chain(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()


Handler = Callable[[fastapi.Request, Any], Awaitable[JSONResponse]]


def _handler(status: int, kind: str) -> Handler:
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else None

    async def handle(_: fastapi.Request, error: Exception) -> JSONResponse:
        message = str(error) or "timeout: the text was not done in the time that a request may take"
        return JSONResponse(error_body(message, kind), status, headers)

    return handle


async def _invalid(_: fastapi.Request, error: Any) -> JSONResponse:
    """Of a RequestValidationError: the first thing that is wrong, by its name."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "extra_forbidden":
        message = f"{where}: unknown"
    elif first["type"] == "json_invalid":
        message = f"body: no JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    else:
        shown = "" if first["type"] == "missing" else f"{first['input']!r:.200}: "
        message = f"{where}: {shown}{first['msg'].removeprefix('Input ')}"
    return JSONResponse(error_body(message, "invalid_request_error", where), 422)


async def _http_error(_: fastapi.Request, error: Any) -> JSONResponse:
    return JSONResponse(error_body(str(error.detail), "invalid_request_error"), error.status_code, error.headers)


async def _left(_: fastapi.Request, __: Any) -> JSONResponse:
    return JSONResponse(error_body("the client has left", "client_closed_request"), 499)
