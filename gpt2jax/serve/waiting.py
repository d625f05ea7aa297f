"""Work that goes on for as long as its client waits, and no longer than a request may take."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import fastapi

from gpt2jax.errors import GPT2JaxError
from gpt2jax.serve import completions
from gpt2jax.serve.errors import LeftError
from gpt2jax.serve.guard import error_body

T = TypeVar("T")


async def while_it_waits(request: fastapi.Request, work: Coroutine[Any, Any, T]) -> T:
    """``work``, given up when the client leaves.

    Raises:
        LeftError: it has.
    """
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


async def timed(events: AsyncGenerator[str], seconds: float) -> AsyncGenerator[str]:
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


async def first_of(events: AsyncGenerator[str]) -> str:
    return await anext(events)


async def chain(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """``first`` and ``rest``, which is closed when nobody wants more of it."""
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()
