"""Answers in OpenAI's form of completions, whole or as server-sent events."""

import contextlib
import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import tiktoken

from gpt2jax.generate.score import Score
from gpt2jax.generate.text import Sample
from gpt2jax.serve.bodies import CompletionBody
from gpt2jax.serve.service import Service
from gpt2jax.serve.texts import Token

# OpenAI's names: it has none for the end of the context.
FINISH = {"stop": "stop", "length": "length", "context": "length"}


async def complete(service: Service, body: CompletionBody) -> dict[str, Any]:
    """The answer to a request that is not streamed.

    Raises:
        GPT2JaxError: what was asked for cannot be written.
    """
    prompts, requests = _ask(service, body)
    scores = await _scores(service, prompts, body)
    samples = [] if body.max_tokens == 0 else await service.write(requests, body.logprobs or 0)
    n, draws = body.n or 1, body.draws
    choices: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        drawn = samples[number * draws : (number + 1) * draws] or [_nothing()] * n
        if draws > n:
            drawn = sorted(drawn, key=lambda one: -one.mean_log_prob)[:n]
        start = service.writer.encoding.decode(prompt) if body.echo else ""
        for sample in drawn:
            tokens = [
                Token(token, sample.log_probs[at], sample.top[at] if sample.top else [])
                for at, token in enumerate(sample.tokens)
            ] + _end(service, sample.stop_log_prob)
            before = _prompt_tokens(prompt, scores[number]) if scores else []
            choices.append(
                {
                    "index": len(choices),
                    "text": start + sample.text,
                    "logprobs": None if body.logprobs is None else _logprobs(service.writer.encoding, before + tokens),
                    "finish_reason": FINISH[sample.finish],
                }
            )
    written = sum(len(sample.tokens) for sample in samples)
    return _head(service) | {"choices": choices, "usage": _usage(prompts, written)}


async def stream(service: Service, body: CompletionBody) -> AsyncGenerator[str]:
    """The same as server-sent events: a choice gains what its text gains; the last event is ``[DONE]``.

    Raises:
        GPT2JaxError: before the first event, what was asked for cannot be written.
    """
    prompts, requests = _ask(service, body)
    scores = await _scores(service, prompts, body)
    encoding, head, draws = service.writer.encoding, _head(service), body.draws
    offsets, written = [0] * len(requests), 0

    def choice(number: int, text: str, tokens: list[Token], finish: str | None) -> str:
        logprobs = None if body.logprobs is None else _logprobs(encoding, tokens, offsets[number])
        offsets[number] += sum(len(_token_text(encoding, token.token)) for token in tokens)
        one = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return event(head | {"choices": [one]})

    async with contextlib.aclosing(service.pieces(requests, body.logprobs or 0)) as coming:
        first = await anext(coming)
        if body.echo:
            for number in range(len(requests)):
                prompt = prompts[number // draws]
                before = _prompt_tokens(prompt, scores[number // draws]) if scores else []
                yield choice(number, encoding.decode(prompt), before, None)
        async for number, piece in _after(first, coming):
            written += len(piece.tokens)
            if piece.text or piece.finish or (piece.tokens and body.logprobs is not None):
                tokens = piece.tokens + _end(service, piece.stop_log_prob)
                yield choice(number, piece.text, tokens, FINISH[piece.finish] if piece.finish else None)
    if body.stream_options and body.stream_options.include_usage:
        yield event(head | {"choices": [], "usage": _usage(prompts, written)})
    yield "data: [DONE]\n\n"


async def _after(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for one in rest:
        yield one


def _ask(service: Service, body: CompletionBody) -> tuple[list[list[int]], list[Any]]:
    sampling = body.sampling()
    prompts = [service.encode(prompt, sampling, number) for number, prompt in enumerate(body.prompts(), 1)]
    requests = service.requests(prompts, sampling, body.draws)
    for number, request in enumerate(requests, 1):
        service.scheduler.check(number, request, body.logprobs or 0)
    return prompts, requests


async def _scores(service: Service, prompts: list[list[int]], body: CompletionBody) -> list[Score]:
    """Of the prompts' own tokens, where an echo is to have log-probabilities."""
    if not body.echo or body.logprobs is None:
        return []
    most = body.logprobs
    return [Score(one.log_probs, [top[:most] for top in one.top]) for one in await service.score(prompts)]


def _prompt_tokens(prompt: list[int], score: Score) -> list[Token]:
    """The first has nothing before it, and no log-probability."""
    rest = [
        Token(token, log_prob, top) for token, log_prob, top in zip(prompt[1:], score.log_probs, score.top, strict=True)
    ]
    return [Token(prompt[0], math.nan, []), *rest]


def _end(service: Service, log_prob: float | None) -> list[Token]:
    """The <|endoftext|> that stopped a text, which OpenAI lists with its log-probability though the text lacks it.

    Programs that score a prompt by echo count on one token more than the prompt has. What else was probable in its
    place is not kept.
    """
    end_of_text = service.scheduler.end_of_text
    return [] if log_prob is None or end_of_text is None else [Token(end_of_text, log_prob, [])]


def _nothing() -> Sample:
    return Sample(text="", tokens=[], log_probs=[], top=[], stop_log_prob=None, finish="length")


def _logprobs(encoding: tiktoken.Encoding, tokens: list[Token], offset: int = 0) -> dict[str, Any]:
    texts = [_token_text(encoding, token.token) for token in tokens]
    offsets = [offset]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    top = []
    for token in tokens:
        several: dict[str, float] = {}
        for other, log_prob in token.top:  # Of tokens that read the same, the most probable one.
            several.setdefault(_token_text(encoding, other), log_prob)
        top.append(several or None)
    return {
        "tokens": texts,
        "token_logprobs": [None if math.isnan(token.log_prob) else token.log_prob for token in tokens],
        "top_logprobs": top,
        "text_offset": offsets[:-1],
    }


def _token_text(encoding: tiktoken.Encoding, token: int) -> str:
    """Its text, or, of a part of a character, its bytes as OpenAI writes them: ``bytes:\\xe2\\x80``."""
    raw = encoding.decode_single_token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _head(service: Service) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.name,
    }


def _usage(prompts: list[list[int]], written: int) -> dict[str, int]:
    read = sum(map(len, prompts))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
