"""Our server beside transformers, the same weights behind each.

    python -m venv peer && peer/bin/pip install torch 'transformers[serving]' fastapi uvicorn
    python benchmarks/serve_peer.py --python peer/bin/python

The servers: `gpt2jax serve`; FastAPI around transformers' generate, one text after the other and as many at once as
there are threads (torch_serve.py); and `transformers serve`. A GPT-2 with random weights, float32, which `gpt2jax
convert` has written in Hugging Face's form. All are asked in turn (A B C D A B C D) for greedy texts of the same
length, by one client and by 16 at once. Writes benchmarks/results/serve_peer.md: our tokens a second over the peer's,
within each round, and how many of the texts are the same.
"""

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import jax

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig
from gpt2jax.presets import PRESETS
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "serve_peer.md"
PEERS = {
    "locked": "FastAPI, generate behind a lock",
    "threaded": "FastAPI, generate in threads",
    "serve": "`transformers serve`",
}


class Loaded(NamedTuple):
    rate: float
    """New tokens a second of all clients together."""
    texts: list[str]


class Server:
    """One process, asked over loopback."""

    def __init__(self, command: list[str], port: int, model: str, extra: dict[str, object]) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        self.address, self.body = f"http://127.0.0.1:{port}", {"model": model, "temperature": 0} | extra
        end = time.monotonic() + 300
        while not self._answers():
            if time.monotonic() > end or self.process.poll() is not None:
                self.end()
                raise SystemExit(f"did not start: {' '.join(command)}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            self.write(0, 2)
        except (httpx.HTTPError, KeyError):
            return False
        return True

    def write(self, number: int, tokens: int) -> tuple[str, int]:
        body = self.body | {"prompt": f"Number {number} of them:", "max_tokens": tokens}
        told = httpx.post(self.address + "/v1/completions", json=body, timeout=3600).raise_for_status().json()
        return told["choices"][0]["text"], told["usage"]["completion_tokens"]

    def load(self, clients: int, tokens: int) -> Loaded:
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(lambda number: self.write(number, tokens), range(clients)))
        rate = sum(count for _, count in found) / (time.perf_counter() - start)
        return Loaded(rate, [text for text, _ in found])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start_all(model: Path, python: str) -> dict[str, Server]:
    """Ours first."""
    found = {}
    ports = {name: free_port() for name in ("ours", *PEERS)}
    try:
        command = [sys.executable, "-m", "gpt2jax", "serve", "--model", str(model), "--port", str(ports["ours"])]
        # The peers are told to write to the end as well.
        found["ours"] = Server(command, ports["ours"], model.name, {"logit_bias": {"50256": -100}})
        for name in ("locked", "threaded"):
            command = [python, str(HERE / "torch_serve.py"), str(model), str(ports[name]), name]
            found[name] = Server(command, ports[name], str(model), {})
        command = [str(Path(python).parent / "transformers"), "serve", str(model), "--host", "127.0.0.1"]
        command += ["--port", str(ports["serve"]), "--device", "cpu", "--dtype", "float32"]
        found["serve"] = Server(command, ports["serve"], str(model), {})
    except BaseException:
        for one in found.values():
            one.end()
        raise
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with torch and transformers[serving]")
    parser.add_argument("--model", default="gpt2", choices=list(PRESETS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=32, help="new ones of each text")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        config, path = ModelConfig(**PRESETS[given.model]), Path(folder) / "m"  # type: ignore[arg-type]
        params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=config)
        convert(HeldWeights(Origin("random", "random", config, tokenizer.gpt2()), params), path, "huggingface")
        del params
        servers = start_all(path, given.python)
        try:
            for clients in given.clients:
                rounds = [
                    {name: server.load(clients, given.tokens) for name, server in servers.items()}
                    for _ in range(given.rounds)
                ]
                for name, title in PEERS.items():
                    ratios = [one["ours"].rate / one[name].rate for one in rounds]
                    same = sum(map(str.__eq__, rounds[0]["ours"].texts, rounds[0][name].texts))
                    lines.append(
                        f"| {title} | {clients} | {statistics.median(ratios):.2f} |"
                        f" {min(ratios):.2f} to {max(ratios):.2f} | {same} of {clients} |"
                    )
                    print(lines[-1], flush=True)
        finally:
            for server in servers.values():
                server.end()
    names = "from importlib.metadata import version; print(version('torch'), version('transformers'))"
    done = subprocess.run([given.python, "-c", names], capture_output=True, text=True, check=True)
    torch, transformers = done.stdout.split()
    options = f"--model {given.model} --clients {' '.join(map(str, given.clients))} --tokens {given.tokens}"
    RESULTS.write_text(
        f"""# Beside other servers

`python benchmarks/serve_peer.py --python PYTHON {options} --rounds {given.rounds}`
on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; jax {jax.__version__}, torch {torch},
transformers {transformers}; float32, random weights, the same in each. Greedy texts of {given.tokens} new tokens, one
for each client, all clients at once; our server as it comes, with 16 slots. Tokens a second of all clients
together, ours over the peer's in the same round.

| peer | clients | ratio | range of {given.rounds} rounds | texts the same |
|---|---|---|---|---|
{chr(10).join(lines)}
""",
        encoding="utf-8",
    )
    print(RESULTS.read_text("utf-8"))


if __name__ == "__main__":
    main()
