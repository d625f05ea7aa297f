"""`gpt2jax serve` as a process, asked over loopback; each text is the offline engine's."""

import asyncio
import base64
import itertools
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from gpt2jax.config import SamplingConfig, ServingConfig
from gpt2jax.generate.features import features
from gpt2jax.generate.text import TextModel
from gpt2jax.serve import server as server_module
from gpt2jax.serve.app import make_app
from gpt2jax.serve.bodies import CARD_EXAMPLE
from gpt2jax.serve.service import Service
from tests.serve.helpers import CONFIG, offline, tiny_params, tiny_writer
from tests.serve.process import Server, write_model

OPTIONS = ["--slots", "4", "--queue", "8", "--chunk", "16", "--max-tokens", "100", "--max-texts", "20"]
OPTIONS += ["--max-body", "20000", "--body-timeout", "1", "--timeout", "60"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    server = Server(model, *OPTIONS)
    yield server
    assert server.end() == 0
    assert not any("Traceback" in line for line in server.lines), server.lines


@pytest.fixture(scope="module")
def writer() -> TextModel:
    return tiny_writer()


def events(server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.stream("POST", server.address + "/v1/completions", json=body | {"stream": True}, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    if lines[-1] != "[DONE]":
        assert "error" in lines[-1]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_the_cards_request_gives_a_list_of_strings(server: Server, writer: TextModel) -> None:
    found = server.post("/score", CARD_EXAMPLE)
    assert len(found) == 2
    assert all(text.startswith(prompt) for text, prompt in zip(found, CARD_EXAMPLE["input_data"], strict=True))
    params = {"seed": 3, "max_new_tokens": 20, "return_full_text": False}
    body: dict[str, Any] = {"input_data": ["Long time ago", "a"], "params": params}
    wanted = [offline(writer, prompt, SamplingConfig(seed=3, max_new_tokens=20)).text for prompt in body["input_data"]]
    assert server.post("/score", body) == wanted
    body["params"]["seed"] = 4
    assert server.post("/score", body) != wanted
    # A seed that is not given is drawn.
    unseeded = {"input_data": ["a"], "params": {"max_new_tokens": 40}}
    assert len({server.post("/score", unseeded)[0] for _ in range(3)}) > 1


def test_all_of_the_sampling_settings_have_their_names(server: Server, writer: TextModel) -> None:
    params = {"seed": 1, "max_new_tokens": 30, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2, "best_of": 3}
    wanted = "ab" + offline(writer, "ab", SamplingConfig(**params)).text  # type: ignore[arg-type]
    assert server.post("/score", {"input_data": ["ab"], "params": params}) == [wanted]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/score", {"input_data": ["a"], "params": {"topp": 0.5}}, "params.topp: unknown"),
        ("/score", {"input_data": ["a"], "params": {"top_p": 2}}, "params.top_p: 2: "),
        ("/score", {"input_data": []}, "input_data: "),
        ("/score", {"input_data": [""]}, "prompt 1: is empty"),
        ("/score", {"input_data": ["a"], "params": {"beams": 2, "max_new_tokens": 9}}, "beams: 2: should be 1"),
        ("/score", {"input_data": ["a"], "params": {"num_samples": 2}}, "num_samples: 2: should be 1"),
        ("/score", {"input_data": ["a" * 128]}, "prompt 1: 128 tokens: at most 127 are taken"),
        ("/score", {"input_data": ["a"], "params": {"max_new_tokens": 101}}, "max_new_tokens: 101: at most 100"),
        ("/score", {"input_data": ["a"] * 21}, "texts: 21: at most 12"),
        ("/v1/completions", {"prompt": "a", "best_of": 1, "n": 2}, "best_of: 1: should be at least n"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix: 'b'"),
        ("/v1/completions", {"prompt": [300]}, "prompt 1: token 300"),
        ("/v1/completions", {"prompt": "a", "logprobs": 6}, "logprobs: 6: should be 0 to 5"),
        ("/v1/completions", {"prompt": "a", "stream": True, "best_of": 2}, "best_of: 2"),
        ("/v1/completions", {}, "prompt: Field required"),
        ("/v1/embeddings", {"input": "a" * 129}, "input 1: 129 tokens"),
        ("/score", {"input_data": ["ab\ud800"]}, "input_data.0: 'ab\\ud800': character 2 should be one of Unicode's"),
        ("/v1/completions", {"prompt": "a", "\ud800": 1}, "body: '\\ud800': should be a valid string"),
        ("/v1/completions", {"prompt": "a", "echo": "yes"}, "echo: 'yes'"),
    ],
)
def test_a_mistake_is_named(server: Server, path: str, body: Any, message: str) -> None:
    error = server.post(path, body, 422)["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_other_mistakes(server: Server) -> None:
    json_type = {"content-type": "application/json"}
    for content in (b'{"input_data": ["\xff"]}', b"[" * 5000, b'{"input_data": ' + b"9" * 5000 + b"}"):
        answer = httpx.post(server.address + "/score", content=content, headers=json_type)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    answer = httpx.post(server.address + "/score", content=b'{"input_data": [', headers=json_type)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("body: no JSON")
    assert server.post("/score", {"input_data": ["a" * 30_000]}, 413)["error"]["message"].startswith("body: too large")
    assert server.get("/v2").status_code == 404
    assert httpx.put(server.address + "/score").status_code == 405
    assert server.get("/v1/models/gpt2").status_code == 404


def test_completions(server: Server, writer: TextModel) -> None:
    prompts = ["ab", "the"]
    body = {"prompt": prompts, "n": 2, "seed": 5, "max_tokens": 12, "temperature": 0.9, "echo": True}
    answer = server.post("/v1/completions", body)
    sampling = SamplingConfig(seed=5, max_new_tokens=12, temperature=0.9, num_samples=2)
    written = zip(prompts, writer.write(prompts, sampling), strict=True)
    wanted = [prompt + text for prompt, texts in written for text in texts]
    assert [choice["text"] for choice in answer["choices"]] == wanted
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["total_tokens"] == 5 + answer["usage"]["completion_tokens"]
    tokens = server.post("/v1/completions", body | {"prompt": [list(b"ab"), list(b"the")]})
    assert tokens["choices"] == answer["choices"]


def test_log_probabilities_of_prompt_and_text(server: Server, writer: TextModel) -> None:
    """As lm-evaluation-harness asks: echo, logprobs, a token more."""
    body = {"prompt": "abc", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 2, "seed": 1}
    [choice] = server.post("/v1/completions", body)["choices"]
    found = choice["logprobs"]
    [score] = writer.score(["abc"], alternatives=2)
    sample = offline(writer, "abc", SamplingConfig(max_new_tokens=1, temperature=0.0), 2)
    wanted = [*score.log_probs, *sample.log_probs]
    assert found["token_logprobs"][0] is None
    assert np.allclose(found["token_logprobs"][1:], wanted, atol=1e-4)
    assert not np.allclose(found["token_logprobs"][1:], wanted[::-1], atol=1e-4)
    assert found["tokens"][:3] == ["a", "b", "c"]
    assert found["text_offset"][:3] == [0, 1, 2]
    assert found["top_logprobs"][0] is None
    assert math.isclose(max(found["top_logprobs"][1].values()), score.top[0][0][1], abs_tol=1e-4)
    only = server.post("/v1/completions", body | {"max_tokens": 0})["choices"][0]
    assert only["logprobs"]["token_logprobs"] == found["token_logprobs"][:3]
    assert only["text"] == "abc"


def test_an_end_of_text_is_listed_with_its_log_probability(server: Server, writer: TextModel) -> None:
    """Programs that score a prompt by echo take off one token at the end, whichever it is."""
    body = {"prompt": "abc", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1, "logit_bias": {"256": 100}}
    [choice] = server.post("/v1/completions", body)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "stop")
    found = choice["logprobs"]
    assert found["tokens"] == ["a", "b", "c", "<|endoftext|>"]
    sampling = SamplingConfig(max_new_tokens=1, temperature=0.0, logit_bias={256: 100.0})
    last = offline(writer, "abc", sampling).stop_log_prob
    assert last is not None
    wanted = [*writer.score(["abc"])[0].log_probs, last]
    assert np.allclose(found["token_logprobs"][1:], wanted, atol=1e-4)
    told = [choice["logprobs"] for event in events(server, body) for choice in event["choices"]]
    assert [token for one in told for token in one["tokens"]] == found["tokens"]
    biased = body | {"logit_bias": {"65": 100}}
    assert server.post("/v1/completions", biased)["choices"][0]["logprobs"]["tokens"] == ["a", "b", "c", "A"]


def test_a_stream_has_the_same_text(server: Server) -> None:
    body = {"prompt": "the", "seed": 5, "max_tokens": 30, "n": 2, "echo": True, "logprobs": 1}
    whole = server.post("/v1/completions", body)
    told = events(server, body | {"stream_options": {"include_usage": True}})
    for choice in whole["choices"]:
        own = [one for event in told for one in event["choices"] if one["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [one["finish_reason"] for one in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert list(itertools.chain(*(one["logprobs"][name] for one in own))) == choice["logprobs"][name]
    assert told[-1]["usage"] == whole["usage"]
    assert len(told) > 20  # It came in pieces.


def test_stop_strings_and_bias(server: Server, writer: TextModel) -> None:
    body = {"prompt": "the", "seed": 5, "max_tokens": 60, "stop": ["e", "q"], "logit_bias": {"101": 5}}
    [choice] = server.post("/v1/completions", body)["choices"]
    wanted = offline(writer, "the", SamplingConfig(seed=5, max_new_tokens=60, stop=("e", "q"), logit_bias={101: 5.0}))
    assert (choice["text"], choice["finish_reason"]) == (wanted.text, "stop")


def test_embeddings(server: Server) -> None:
    answer = server.post("/v1/embeddings", {"input": ["abc", "some more text"]})
    wanted = features(tiny_params(), [list(b"abc"), list(b"some more text")], CONFIG)
    for one, other in zip(answer["data"], wanted, strict=True):
        assert np.allclose(one["embedding"], other, atol=1e-4)
    assert not np.allclose(answer["data"][0]["embedding"], wanted[1], atol=1e-1)
    packed = server.post("/v1/embeddings", {"input": "abc", "encoding_format": "base64", "pool": "last"})
    found = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.allclose(found, features(tiny_params(), [list(b"abc")], CONFIG, pool="last")[0], atol=1e-4)


def test_probes_and_pages(server: Server) -> None:
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").json() == {"ready": True}
    assert [one["id"] for one in server.get("/v1/models").json()["data"]] == ["tiny"]
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 3})
    told = server.get("/metrics").text
    for name in ("requests_total", "waiting", "first_token_seconds_count", "token_seconds_count", "occupancy"):
        assert re.search(rf"^gpt2jax_{name}\b", told, re.M), name
    page = server.get("/").text
    assert "<title>tiny" in page
    assert "It does not know what is true." in page
    schema = server.get("/openapi.json").json()
    assert schema["components"]["schemas"]["ScoreBody"]["examples"] == [CARD_EXAMPLE]


def test_the_page_of_the_document_needs_no_network(server: Server) -> None:
    page = server.get("/docs").text
    linked = re.findall(r"""(?:src|href)=["']([^"']+)|url: ["']([^"']+)""", page)
    addresses = {one or other for one, other in linked}
    assert addresses >= {"/docs-assets/swagger-ui-bundle.js", "/docs-assets/swagger-ui.css", "/openapi.json"}
    for address in addresses:
        assert address.startswith("/"), address
        assert len(server.get(address).content) > 1000
    assert server.get("/docs-assets/none.js").status_code == 404


def test_the_document_names_what_is_answered(server: Server) -> None:
    document = server.get("/openapi.json").json()
    said = {
        path: set(operations["post"]["responses"])
        for path, operations in document["paths"].items()
        if "post" in operations
    }
    refused = {"400", "401", "408", "413", "422", "429", "503", "504"}
    assert said == {
        "/score": refused | {"200"},
        "/v1/completions": refused | {"200", "404"},
        "/v1/embeddings": refused | {"200", "404"},
    }
    assert "securitySchemes" not in document["components"]
    keyed = make_app(Service.of("tiny", tiny_writer(), ServingConfig(slots=1)), keyed=True).openapi()
    assert keyed["paths"]["/score"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in keyed["paths"]["/health"]["get"]


def test_who_leaves_frees_the_slots(server: Server) -> None:
    """Eight texts fill slots and queue; their client leaves; another one is served."""
    params = {"max_new_tokens": 100, "ignore_end_of_text": True, "past_context": "slide"}
    body = {"input_data": ["a"] * 8, "params": params}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.address + "/score", json=body, timeout=httpx.Timeout(5, read=0.02))
    assert len(server.post("/v1/completions", {"prompt": "a", "max_tokens": 3})["choices"]) == 1
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and "gpt2jax_waiting 0.0" not in server.get("/metrics").text:
        time.sleep(0.05)
    assert "gpt2jax_waiting 0.0" in server.get("/metrics").text


def test_half_a_body_is_given_up(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"input_data"')
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert server.get("/health").status_code == 200


def test_many_clients_at_once(server: Server, writer: TextModel) -> None:
    """Past the queue some get 429 and come again; every text is right."""
    asked = [(f"{number} bottles", SamplingConfig(seed=number, max_new_tokens=5 + number % 20)) for number in range(60)]
    turned_away = []

    def ask(number: int) -> str:
        prompt, sampling = asked[number]
        body = {"prompt": prompt, "seed": sampling.seed, "max_tokens": sampling.max_new_tokens}
        while True:
            answer = httpx.post(server.address + "/v1/completions", json=body, timeout=60)
            if answer.status_code == 200:
                return str(answer.json()["choices"][0]["text"])
            assert answer.status_code == 429, answer.text
            assert answer.headers["retry-after"] == "1"
            turned_away.append(number)
            time.sleep(0.05)

    with ThreadPoolExecutor(30) as pool:
        texts = list(pool.map(ask, range(60)))
    assert texts == [offline(writer, prompt, sampling).text for prompt, sampling in asked]
    assert turned_away


def test_keys_and_an_end_that_waits(model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("first\n# a note\nsecond\n")
    server = Server(model, *OPTIONS, "--api-keys", str(keys), GPT2JAX_API_KEYS="third")
    body = {"prompt": "a", "max_tokens": 3}
    assert server.post("/v1/completions", body, 401)["error"]["code"] == "invalid_api_key"
    server.post("/v1/completions", body, 401, headers={"authorization": "Bearer firs"})
    for key in ("first", "second", "third"):
        server.post("/v1/completions", body, headers={"authorization": f"Bearer {key}"})
    for path in ("/health", "/docs", "/docs-assets/swagger-ui.css"):
        assert server.get(path).status_code == 200
    assert server.get("/v1/models").status_code == 401
    long = {"prompt": "a", "max_tokens": 100, "logit_bias": {"256": -100}}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "/v1/completions", long, headers={"authorization": "Bearer first"})
        while "gpt2jax_occupancy 0.25" not in server.get("/metrics").text and not answer.done():
            time.sleep(0.001)
        assert server.end() == 0
        assert answer.result()["usage"]["completion_tokens"] == 100
    assert not any("first" in line or "bottles" in line for line in server.lines)


def test_a_request_may_take_so_long(model: Path) -> None:
    server = Server(model, *OPTIONS, "--slots", "1", "--queue", "40", "--timeout", "0.5")
    short, long = {"prompt": "a", "max_tokens": 1}, {"prompt": ["a"] * 20, "max_tokens": 100}
    long["logit_bias"] = {"256": -100}
    try:
        server.post("/v1/completions", short)
        assert "timeout" in server.post("/v1/completions", long, 504)["error"]["message"]
        told = events(server, long)
        assert told[-1]["error"]["message"] == "timeout: longer than 0.5 s"
        assert "choices" in told[0]
        server.post("/v1/completions", short)  # Their slots are free.
    finally:
        assert server.end() == 0


def test_a_failure_ends_the_server(writer: TextModel, capsys: pytest.CaptureFixture[str]) -> None:
    service = Service.of("tiny", writer, ServingConfig(slots=1))
    process = uvicorn.Server(uvicorn.Config(make_app(service), log_config=None))

    async def watched() -> None:
        await asyncio.wait_for(server_module._watch(process, service, "here"), 1.0)

    with pytest.raises(TimeoutError):  # As long as nothing has failed.
        asyncio.run(watched())
    assert not process.should_exit
    service.scheduler.failure = ValueError("no memory")
    asyncio.run(watched())
    assert process.should_exit
    assert "the server has failed: ValueError('no memory')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "port"),
        (["--api-keys", "no/such/file"], "serving.api_keys: no/such/file: cannot be read"),
        (["--slots", "0"], "slots"),
    ],
)
def test_what_cannot_be_served_is_said(model: Path, options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "gpt2jax", "serve", "--model", str(model), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 300


def test_openais_own_client(server: Server, writer: TextModel) -> None:
    client = openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    asked: dict[str, Any] = {"model": "tiny", "prompt": "the", "max_tokens": 20, "seed": 3, "logprobs": 1}
    answer = client.completions.create(**asked)
    sampling = SamplingConfig(seed=3, max_new_tokens=20)
    assert answer.choices[0].text == offline(writer, "the", sampling).text
    assert answer.usage
    assert answer.usage.completion_tokens == len(offline(writer, "the", sampling).tokens)
    assert client.completions.create(**asked | {"seed": 4}).choices[0].text != answer.choices[0].text
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert len(pieces) > 5
    assert "".join(pieces) == answer.choices[0].text
    # It asks for base64 and unpacks it.
    found = client.embeddings.create(model="tiny", input=["abc"]).data[0].embedding
    assert np.allclose(found, features(tiny_params(), [list(b"abc")], CONFIG)[0], atol=1e-4)
    with pytest.raises(openai.UnprocessableEntityError, match="max_tokens: -1"):
        client.completions.create(model="tiny", prompt="a", max_tokens=-1)


def test_another_model_is_not_found(server: Server) -> None:
    client = openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0)
    for ask in (
        lambda: client.completions.create(model="gpt2", prompt="a"),
        lambda: client.embeddings.create(model="gpt2", input="a"),
        lambda: client.models.retrieve("gpt2"),
    ):
        with pytest.raises(openai.NotFoundError, match="model: 'gpt2': is not served; should be 'tiny'") as raised:
            ask()
        assert raised.value.code == "model_not_found"
        assert raised.value.param == "model"
        assert raised.value.type == "invalid_request_error"
    assert client.models.retrieve("tiny").id == "tiny"
    for body in ({"prompt": "a"}, {"prompt": "a", "model": None}, {"prompt": "a", "model": "tiny"}):
        assert server.post("/v1/completions", body)["model"] == "tiny"
