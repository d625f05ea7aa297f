"""Clients that do not read: what they hold, and for how long."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2jax.serve.guard import Guard, Message, Receive, Scope, Send
from gpt2jax.serve.metrics import Metrics
from tests.serve.process import Server, write_model

STALL = 0.5
# Of streams that are more than what the kernel takes for a client that does not read.
TEXTS, NEW = 64, 100
BODY: dict[str, Any] = {"prompt": ["a"] * TEXTS, "max_tokens": NEW, "logprobs": 5, "stream": True, "seed": 1}
BODY["logit_bias"] = {"256": -100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_model(tmp_path_factory.mktemp("served") / "tiny")
    options = ["--slots", "1", "--chunk", "16", "--max-texts", str(TEXTS), "--stall-timeout", str(STALL)]
    server = Server(model, *options)
    yield server
    assert server.end() == 0
    assert not any("Traceback" in line for line in server.lines), server.lines


def ask(server: Server, body: dict[str, Any]) -> socket.socket:
    """A connection with little room for what is read, over which ``body`` has been sent."""
    host, port = server.address.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def drawn(server: Server) -> float:
    found = re.search(r"^gpt2jax_tokens_total (\S+)", server.get("/metrics").text, re.M)
    assert found
    return float(found[1])


def answered(server: Server) -> list[str]:
    """Lines of the log of requests of this kind, which have come to an end."""
    return [line for line in server.lines if line.startswith("POST /v1/completions")]


def test_a_stream_that_nobody_reads_is_given_up(server: Server) -> None:
    """By the system or by the server, whichever sees it first."""
    before, others = drawn(server), len(answered(server))
    with ask(server, BODY):
        end = time.monotonic() + 60
        while len(answered(server)) == others:
            assert time.monotonic() < end, server.lines
            time.sleep(0.05)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 3})["choices"]
        assert drawn(server) - before < TEXTS * NEW
        assert "gpt2jax_waiting 0.0" in server.get("/metrics").text


def test_a_stream_that_is_read_slowly_is_whole(server: Server) -> None:
    """For longer than the limit, but never without taking anything for so long."""
    body = BODY | {"prompt": ["a"] * 4}
    start, raw = time.monotonic(), b""
    with ask(server, body) as connection:
        time.sleep(STALL * 0.5)
        while some := connection.recv(16_384):
            raw += some
            if time.monotonic() - start < STALL * 2:
                time.sleep(0.1)
    assert time.monotonic() - start > STALL * 1.5
    assert b"data: [DONE]\n\n" in raw
    assert raw.count(b'"finish_reason": "length"') == 4


@pytest.mark.parametrize("stalls", [True, False])
def test_an_answer_that_is_not_taken_is_given_up(stalls: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the server's socket does not see to it."""
    closed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": False})
        finally:
            closed.append(True)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        if stalls and message["type"] == "http.response.body":
            await asyncio.sleep(60)

    limits: dict[str, Any] = {"max_body": 10, "body_timeout": 1.0, "stall_timeout": 0.05}
    guard = Guard(app, keys=(), metrics=Metrics(), known={"/"}, **limits)
    start = time.monotonic()
    asyncio.run(guard({"type": "http", "path": "/", "headers": [], "method": "GET"}, receive, send))
    assert closed
    assert time.monotonic() - start < 5
    assert f"GET / {499 if stalls else 200} " in capsys.readouterr().err


def test_the_end_does_not_wait_for_who_does_not_read(tmp_path: Path) -> None:
    server = Server(write_model(tmp_path / "tiny"), "--slots", "4", "--chunk", "16", "--timeout", "2")
    with ask(server, BODY):
        time.sleep(0.5)
        start = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - start < 20
