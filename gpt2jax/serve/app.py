"""The routes."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Coroutine
from importlib import resources
from typing import Any, TypeVar

import fastapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer

from gpt2jax import __version__
from gpt2jax.risks import RISKS
from gpt2jax.serve import answers, completions
from gpt2jax.serve.bodies import CompletionBody, EmbeddingBody, ScoreBody
from gpt2jax.serve.docs import add_docs
from gpt2jax.serve.errors import UnknownModelError, add_handlers
from gpt2jax.serve.page import render
from gpt2jax.serve.service import Service
from gpt2jax.serve.texts import ClosedError
from gpt2jax.serve.waiting import chain, first_of, timed, while_it_waits

T = TypeVar("T")


def make_app(service: Service, *, keyed: bool = False) -> fastapi.FastAPI:
    """The application; the model's programs are compiled after it has started to listen.

    Args:
        keyed: whether clients must send a key, for the OpenAPI document; it is the guard that looks at it.
    """
    serving = service.serving

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(asyncio.to_thread(service.start))
        yield
        await asyncio.to_thread(service.scheduler.close)  # First: what is being compiled then ends early.
        await asyncio.gather(starting, return_exceptions=True)

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
            return await while_it_waits(request, work)

    def need_model(asked: str | None) -> None:
        if asked is not None and asked != service.name:
            raise UnknownModelError(asked, service.name)

    keys = [fastapi.Depends(HTTPBearer(auto_error=False, description="One of the server's API keys."))] * keyed
    described = answers.Model(id=service.name, object="model", created=service.started, owned_by="gpt2jax")
    add_handlers(app)
    add_docs(app)

    @app.post("/score", response_model=list[str], responses=answers.WORK, tags=["text"], dependencies=keys)
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

    @app.post(
        "/v1/completions",
        response_model=None,
        responses=answers.COMPLETIONS | answers.WORK | answers.refusals(404),
        tags=["text"],
        dependencies=keys,
    )
    async def complete(body: CompletionBody, request: fastapi.Request) -> dict[str, Any] | StreamingResponse:
        """OpenAI's form of completions, whole or streamed."""
        need_model(body.model)
        if not body.stream:
            return await answer(request, completions.complete(service, body))
        need_ready()
        events = timed(completions.stream(service, body), serving.timeout)
        try:  # What is wrong shows here, while there is still a status to say it.
            first = await while_it_waits(request, first_of(events))
        except BaseException:
            await events.aclose()
            raise
        return StreamingResponse(chain(first, events), media_type="text/event-stream")

    @app.post(
        "/v1/embeddings",
        response_model=None,
        responses=answers.VECTORS | answers.WORK | answers.refusals(404),
        tags=["features"],
        dependencies=keys,
    )
    async def embed(body: EmbeddingBody, request: fastapi.Request) -> dict[str, Any]:
        """OpenAI's form of embeddings: final states of the model, their mean over a text or its last position's."""
        need_model(body.model)
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

    @app.get("/v1/models", responses=answers.READ, tags=["model"], dependencies=keys)
    async def models() -> answers.Models:
        return answers.Models(object="list", data=[described])

    @app.get(
        "/v1/models/{name:path}", responses=answers.READ | answers.refusals(404, 422), tags=["model"], dependencies=keys
    )
    async def model(name: str) -> answers.Model:
        need_model(name)
        return described

    @app.get("/health", responses=answers.probe(answers.Health), tags=["probes"])
    async def health() -> JSONResponse:
        """200 as long as the process can serve, once it can; 503 after a failure that it will not come back from."""
        failed = service.scheduler.failure
        return JSONResponse({"status": f"failed: {failed}" if failed else "ok"}, 503 if failed else 200)

    @app.get("/ready", responses=answers.probe(answers.Ready), tags=["probes"])
    async def is_ready() -> JSONResponse:
        """200 once every program is compiled."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=answers.refusals(400, 408, 413), tags=["probes"])
    async def metrics() -> PlainTextResponse:
        """Prometheus' text format."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    page = render(resources.files("gpt2jax.serve").joinpath("page.html").read_text("utf-8"), service.name)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    return app
