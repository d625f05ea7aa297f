"""Clients of every kind, each of which knows what the offline engine answers."""

import asyncio
import collections
import dataclasses
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx
import numpy as np

from gpt2jax.config import SamplingConfig
from gpt2jax.generate.features import features
from gpt2jax.generate.text import TextModel
from tests.serve.helpers import CONFIG, offline, tiny_params

STALL, BODY = 2.0, 1.0
"""Seconds: the server's limits for readers that stall and for bodies that do not come."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request and its answer, without what is not the model's."""

    path: str
    body: dict[str, Any]
    wanted: Any


def make_requests(writer: TextModel, count: int, seed: int = 0) -> list[Asked]:
    """Texts of mixed lengths and settings for all routes, with what the offline engine writes for them."""
    draw, made = random.Random(seed), []
    for number in range(count):
        prompt = "".join(draw.choice("abcdefgh \n") for _ in range(draw.choice([1, 3, 15, 16, 17, 40, 64, 65, 100])))
        new, kind = draw.choice([1, 4, 12, 30, 60]), draw.choice(["score", "completions", "completions", "embeddings"])
        settings: dict[str, Any] = {"seed": draw.randrange(2**32)}
        settings |= draw.choice([{}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.7}, {"repetition_penalty": 1.3}])
        if kind == "embeddings":
            pool: Literal["mean", "last"] = draw.choice(("mean", "last"))
            wanted = features(tiny_params(), [list(prompt.encode())], CONFIG, pool=pool)[0]
            made.append(Asked("/v1/embeddings", {"input": prompt, "pool": pool}, wanted))
            continue
        sample = offline(writer, prompt, SamplingConfig(max_new_tokens=new, **settings))
        if kind == "score":
            params = settings | {"max_new_tokens": new, "return_full_text": False}
            made.append(Asked("/score", {"input_data": [prompt], "params": params}, [sample.text]))
            continue
        body: dict[str, Any] = settings | {"prompt": prompt, "max_tokens": new}
        if number % 2:
            body["prompt"] = list(prompt.encode())
        body["logprobs"] = 1
        ended = [] if sample.stop_log_prob is None else ["<|endoftext|>"]
        tokens = [token_text(token) for token in sample.tokens] + ended
        finish = "stop" if sample.finish == "stop" else "length"
        made.append(Asked("/v1/completions", body, (sample.text, tokens, finish)))
    return made


def token_text(token: int) -> str:
    """What the server calls a token of one byte."""
    return chr(token) if token < 128 else f"bytes:\\x{token:02x}"


def same(asked: Asked, found: Any) -> bool:
    if asked.path == "/v1/embeddings":
        return np.allclose(found["data"][0]["embedding"], asked.wanted, atol=1e-4)
    if asked.path == "/score":
        return bool(found == asked.wanted)
    [choice] = found["choices"]
    return (choice["text"], choice["logprobs"]["tokens"], choice["finish_reason"]) == asked.wanted


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer that a stream's events are parts of."""
    choices = [choice for event in events for choice in event["choices"]]
    tokens = list(itertools.chain(*(choice["logprobs"]["tokens"] for choice in choices)))
    whole = {"text": "".join(choice["text"] for choice in choices), "logprobs": {"tokens": tokens}}
    return {"choices": [whole | {"finish_reason": choices[-1]["finish_reason"]}]}


class Clients:
    """They ask one server, and count what it answers."""

    def __init__(self, address: str, requests: list[Asked], seed: int = 0) -> None:
        host, port = address.removeprefix("http://").split(":")
        self.host, self.port, self.requests, self.draw = host, int(port), requests, random.Random(seed)
        self.texts = [asked for asked in requests if asked.path == "/v1/completions"]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.client = httpx.AsyncClient(base_url=address, timeout=60, limits=limits)
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    async def run(self, clients: int, seconds: float) -> None:
        """So many at once, each one request after the other."""
        end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(clients)))

    async def _client(self, end: float) -> None:
        kinds: list[tuple[Callable[[], Awaitable[str]], int]] = [
            (self.whole, 60),
            (self.streamed, 20),
            (self.slow, 8),
            (self.vanishing, 8),
            (self.half, 2),
            (self.stuck, 2),
        ]
        kind = [one for one, _ in kinds]
        weight = [share for _, share in kinds]
        while asyncio.get_running_loop().time() < end:
            [ask] = self.draw.choices(kind, weight)
            try:
                self.counts[await ask()] += 1
            except (httpx.HTTPError, OSError, AssertionError, KeyError, ValueError) as error:
                self.wrong.append(f"{ask.__name__}: {error!r}")

    def _compare(self, asked: Asked, found: Any, kind: str) -> str:
        if not same(asked, found):
            self.wrong.append(f"{kind}: {asked.body}: {found} instead of {asked.wanted}")
        return kind

    async def _patiently(self, status: int) -> str | None:
        """Of a status that is no answer: what it counts as."""
        if status == 429:
            await asyncio.sleep(0.1)
            return "turned away"
        assert status == 200, status
        return None

    async def whole(self) -> str:
        asked = self.draw.choice(self.requests)
        answer = await self.client.post(asked.path, json=asked.body)
        return await self._patiently(answer.status_code) or self._compare(asked, answer.json(), "whole")

    async def streamed(self, pause: float = 0.0) -> str:
        asked = self.draw.choice(self.texts)
        async with self.client.stream("POST", asked.path, json=asked.body | {"stream": True}) as answer:
            if told := await self._patiently(answer.status_code):
                return told
            raw = b""
            async for some in answer.aiter_raw(256 if pause else None):
                raw += some
                await asyncio.sleep(pause)
        events = raw.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-2:]
        found = joined([json.loads(event.removeprefix("data: ")) for event in events[:-2]])
        return self._compare(asked, found, "slow" if pause else "streamed")

    async def slow(self) -> str:
        return await self.streamed(0.01)

    async def vanishing(self) -> str:
        """Leaves in the middle of its text, or before it."""
        asked = self.draw.choice(self.texts)
        _, writer = await self._post(asked.path, asked.body | {"stream": self.draw.random() < 0.5, "max_tokens": 60})
        await asyncio.sleep(self.draw.choice([0.0, 0.01, 0.05]))
        writer.transport.abort()
        return "vanished"

    async def half(self) -> str:
        """Sends the half of a body."""
        head = "POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(head.encode() + b'{"input_data"')
        line = await asyncio.wait_for(reader.readline(), 30)
        assert b" 408 " in line, line
        writer.close()
        return "half a body"

    async def stuck(self) -> str:
        """Asks for a long stream, and reads nothing of it for longer than the server waits."""
        body = {"prompt": ["a"] * 4, "max_tokens": 60, "logprobs": 5, "stream": True}
        _, writer = await self._post("/v1/completions", body, limit=1024)
        await asyncio.sleep(STALL + 1)
        writer.transport.abort()
        return "stuck"

    async def _post(
        self, path: str, body: dict[str, Any], limit: int = 2**16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=limit)
        writer.write(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        return reader, writer
