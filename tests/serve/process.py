"""`gpt2jax serve` of a tiny model as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from gpt2jax import tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin
from tests.helpers import RUNS_CACHE
from tests.serve.helpers import CONFIG, tiny_params


def write_model(path: Path, config: ModelConfig = CONFIG) -> Path:
    """The tiny model at ``path``, whose last part is what it is served as."""
    held = HeldWeights(Origin("random", "random", config, tokenizer.byte_level()), tiny_params(config))
    convert(held, path, "huggingface")
    return path


class Server:
    """The process, and what it prints."""

    def __init__(self, model: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "gpt2jax", "serve", "--model", str(model), "--port", "0", *options]
        given = os.environ | RUNS_CACHE | {"JAX_PLATFORMS": "cpu"} | environment
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(180), self.lines
        found = re.search(r"at (http://\S+);", "\n".join(self.lines))
        assert found, self.lines
        self.address = found[1]

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if line.startswith("ready"):
                self._ready.set()
        self._ready.set()

    def post(self, path: str, body: Any, status: int = 200, **given: Any) -> Any:
        headers = {"content-type": "application/json"} | given.pop("headers", {})
        answer = httpx.post(self.address + path, content=json.dumps(body), timeout=60, headers=headers, **given)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.address + path, timeout=60)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stderr
        self.process.stderr.close()
        return status
