"""What stands before every route: a body's size and time, keys, readers that stall, and a line of the log."""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gpt2jax.serve.log import say
from gpt2jax.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Open to all: what probes and scrapers ask, and pages that hold nothing.
OPEN = ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
OPEN_FOLDER = "/docs-assets/"
JSON = (b"content-type", b"application/json")


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form; of what was sent, it may quote what is no text."""
    shown = None if param is None else _as_text(param)
    return {"error": {"message": _as_text(message), "type": kind, "param": shown, "code": code}}


def _as_text(quoted: str) -> str:
    return quoted.encode(errors="backslashreplace").decode()


class StalledError(Exception):
    """The client takes nothing of its answer."""


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: App,
        *,
        keys: tuple[str, ...],
        max_body: int,
        body_timeout: float,
        stall_timeout: float,
        metrics: Metrics,
        known: set[str],
    ) -> None:
        """
        Args:
            keys: of which a client must send one; none: everybody may.
            max_body: bytes.
            body_timeout: seconds.
            stall_timeout: seconds in which a client must take a part of its answer, or make room for it.
            known: paths that there are, which metrics count by name; others are counted together.
        """
        self.app, self.metrics, self.known = app, metrics, known
        self.keys, self.max_body = [key.encode() for key in keys], max_body
        self.body_timeout, self.stall_timeout = body_timeout, stall_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # That of a client which left before it was answered.

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self.stall_timeout):
                    await send(message)
            except TimeoutError:
                status = 499
                raise StalledError from None

        try:
            await self._guarded(scope, receive, note)
        except StalledError:
            pass  # An answer that is not complete: the server closes the connection.
        finally:
            path = scope["path"] if scope["path"] in self.known else "other"
            self.metrics.request(path, status)
            seconds = time.perf_counter() - start
            say(f"{scope['method']} {path} {status} {seconds * 1e3:,.0f} ms")

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_open = scope["path"] in OPEN or scope["path"].startswith(OPEN_FOLDER)
        if self.keys and not is_open and not self._allowed(headers.get(b"authorization", b"")):
            message = "API key: missing or unknown; send it as 'Authorization: Bearer KEY'"
            await _answer(send, 401, error_body(message, "authentication_error", code="invalid_api_key"))
            return
        try:
            body = await asyncio.wait_for(self._body(headers, receive), self.body_timeout)
        except TimeoutError:
            message = f"body: had not come after {self.body_timeout:g} s"
            await _answer(send, 408, error_body(message, "invalid_request_error"))
            return
        if body is None:
            message = f"body: too large: at most {self.max_body:,} bytes are taken"
            await _answer(send, 413, error_body(message, "invalid_request_error"))
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # The client's leaving.
            given = True
            return body

        await self.app(scope, replay, send)

    def _allowed(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # Each is compared, in a time that does not depend on where they differ.
        found = [hmac.compare_digest(key.strip(), known) for known in self.keys]
        return scheme.lower() == b"bearer" and any(found)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> Message | None:
        """The body as one message; None if it is too large."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.max_body):
            return None
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message  # The client has left.
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body:
                return None
            if not message.get("more_body"):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    # The rest of a body that was not read must not be taken for the next request.
    headers = [JSON, (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
