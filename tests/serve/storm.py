"""Bad and odd requests by the thousand against a server of a tiny model: none may hang, or be answered with 5xx.

    python -m tests.serve.storm --requests 10000

Half of them are made by schemathesis from the server's own OpenAPI document, the other half by hypothesis
(tests/serve/bodies.py). Each answer must be one that the document names, in the form that it says. At the end the
server must still write what the offline engine writes.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import hypothesis
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi import checks

from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.text import TextModel
from gpt2jax.tokenizer import byte_level
from tests.serve.bodies import BODIES, Sent
from tests.serve.helpers import offline, tiny_params
from tests.serve.process import Server, write_model

T = TypeVar("T")

# Small, so that texts end soon.
CONFIG = ModelConfig(n_vocab=257, n_ctx=32, n_embd=16, n_head=2, n_layer=1)
OPTIONS = ["--slots", "8", "--queue", "64", "--chunk", "16", "--max-tokens", "40", "--max-texts", "8"]
OPTIONS += ["--max-body", "20000", "--timeout", "60"]
CLIENTS = 8
# Seconds after which a request counts as one that hangs.
HANGS = 90.0
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


class Storm:
    """Counts of what was answered, and all that was wrong."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.address, timeout=HANGS)
        self.document = self.client.get("/openapi.json").json()
        self.counts: collections.Counter[tuple[str, int]] = collections.Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0

    def note(self, path: str, status: int, start: float, what: Callable[[], str], problem: str | None = None) -> None:
        self.counts[path, status] += 1
        self.slowest = max(self.slowest, time.perf_counter() - start)
        if status >= 500:
            problem = problem or "a failure of the server's"
        if problem:
            self.wrong.append(f"{path}: {status}: {problem}: {what()}")

    def send(self, sent: Sent) -> None:
        """One of ours."""
        start = time.perf_counter()
        try:
            answer = self.client.post(sent.path, content=sent.content, headers=sent.headers)
        except httpx.HTTPError as error:
            self.wrong.append(f"{sent.path}: {error!r}: {sent.content[:500]!r}")
            return
        self.note(sent.path, answer.status_code, start, lambda: repr(sent)[:600], self._problem(sent, answer))

    def _problem(self, sent: Sent, answer: httpx.Response) -> str | None:
        if str(answer.status_code) not in self.document["paths"][sent.path]["post"]["responses"]:
            return "not in the document"
        if answer.headers["content-type"].startswith("text/event-stream"):
            if not answer.text.endswith("data: [DONE]\n\n"):
                return f"a stream without its end: {answer.text[-300:]!r}"
            return None
        told = json.loads(answer.text, parse_constant=_no_constant)
        if answer.status_code >= 400 and set(told) != {"error"}:
            return f"no error in OpenAI's form: {told}"
        return None

    def send_case(self, case: Any) -> None:
        """One of schemathesis'."""
        start, path = time.perf_counter(), case.operation.path
        try:
            answer = case.call(base_url=self.server.address, timeout=HANGS)
        except Exception as error:
            self.wrong.append(f"{path}: {error!r}: {case.as_curl_command(base_url=self.server.address)[:600]}")
            return
        problem = None
        try:
            if not answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
                # What is too large is not looked at.
                large = answer.status_code == 413
                case.validate_response(answer, checks=CHECKS[:-2] if large else CHECKS)
        except FailureGroup as group:
            problem = "; ".join(f"{one.title}: {one.message}" for one in group.exceptions)
        except AssertionError as error:
            problem = str(error)
        self.note(path, answer.status_code, start, lambda: case.as_curl_command(base_url="")[:600], problem)

    def run(self, requests: int, seed: int) -> None:
        """``requests`` of each kind's half; more where a kind has more operations than its share."""
        schema = schemathesis.openapi.from_dict(self.document)
        operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
        # Nine in ten to the routes that take a body.
        posts = [one for one in operations if one.method.upper() == "POST"]
        gets = [one for one in operations if one.method.upper() != "POST"]
        with ThreadPoolExecutor(CLIENTS) as pool:
            for sent in batches(BODIES, requests - requests // 2, seed):
                list(pool.map(self.send, sent))
            for some, share in ((posts, requests // 2 * 9 // 10), (gets, requests // 2 // 10)):
                each = -(-share // (2 * len(some)))
                for number, operation in enumerate(some):
                    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                        try:
                            strategy = operation.as_strategy(generation_mode=mode)
                            for cases in batches(strategy, each, seed + number):
                                list(pool.map(self.send_case, cases))
                        except hypothesis.errors.Unsatisfiable:  # A route without parameters cannot be asked wrongly.
                            assert operation.method.upper() != "POST"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def batches(strategy: st.SearchStrategy[T], count: int, seed: int, size: int = 200) -> Iterator[list[T]]:
    """``count`` examples, some at a time."""
    done = 0
    while done < count:
        found = _examples(strategy, min(size, count - done), seed + done)
        done += len(found)
        yield found


def _examples(strategy: st.SearchStrategy[T], count: int, seed: int) -> list[T]:
    found: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


def storm(requests: int, seed: int = 0) -> Storm:
    """``requests`` against a server of its own, which must be well at the end.

    Raises:
        AssertionError: it is not, or has printed a traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = Server(write_model(Path(folder) / "tiny", CONFIG), *OPTIONS)
        try:
            made = Storm(server)
            made.run(requests, seed)
            body = {"prompt": "the", "seed": 3, "max_tokens": 12}
            found = server.post("/v1/completions", body)["choices"][0]["text"]
        finally:
            status = server.end()
    writer = TextModel.from_params(tiny_params(CONFIG), CONFIG, byte_level())
    assert found == offline(writer, "the", SamplingConfig(seed=3, max_new_tokens=12)).text
    assert status == 0
    made.wrong += [line for line in server.lines if "Traceback" in line or "Error" in line]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.perf_counter()
    made = storm(given.requests, given.seed)
    for line in list(dict.fromkeys(made.wrong))[:40]:
        print(line)
    by_path: dict[str, dict[int, int]] = {}
    for (path, status), count in sorted(made.counts.items()):
        by_path.setdefault(path, {})[status] = count
    for path, statuses in by_path.items():
        print(f"{path:20} " + ", ".join(f"{status}: {count:,}" for status, count in statuses.items()))
    print(
        f"{made.counts.total():,} requests in {time.perf_counter() - start:,.0f} s, the slowest answer after"
        f" {made.slowest:.1f} s; {len(made.wrong):,} wrong"
    )
    return 1 if made.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
