"""The process: a socket, signals, and the end."""

import asyncio
import math
import os
import signal
import socket
from pathlib import Path

import uvicorn

from gpt2jax.config import ServingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.generate.text import TextModel
from gpt2jax.serve.app import make_app
from gpt2jax.serve.guard import Guard
from gpt2jax.serve.log import say
from gpt2jax.serve.service import Service

KEYS = "GPT2JAX_API_KEYS"
# Bytes of an answer that the system may hold for a client which does not read; it would take megabytes.
SEND_BUFFER = 262_144
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(name: str, writer: TextModel, serving: ServingConfig) -> int:
    """Serve until SIGTERM or Ctrl-C, and then until the texts that were asked for are done.

    Returns:
        The exit status.

    Raises:
        GPT2JaxError: the address is taken, or a file of keys is none.
    """
    keys = read_keys(serving.api_keys)
    service = Service.of(name, writer, serving)
    app = make_app(service, keyed=bool(keys))
    guarded = Guard(
        app,
        keys=keys,
        max_body=serving.max_body,
        body_timeout=serving.body_timeout,
        stall_timeout=serving.stall_timeout,
        metrics=service.metrics,
        known={route.path for route in app.routes if "{" not in route.path},  # type: ignore[attr-defined]
    )
    listener = _listen(serving)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not keys and serving.host not in LOOPBACK:
        say(f"gpt2jax: warning: {serving.host}: whoever reaches it may use it; --api-keys FILE")
    say(f"serving {name} at {address}; compiling")
    config = uvicorn.Config(
        guarded,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=30,
        backlog=1024,
        # No request takes longer; what is left after it is a client that does not read.
        timeout_graceful_shutdown=math.ceil(serving.timeout),
    )
    return asyncio.run(_run(uvicorn.Server(config), listener, service, address))


async def _run(server: uvicorn.Server, listener: socket.socket, service: Service, address: str) -> int:
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True
        say(f"{name}: no new requests; {service.scheduler.busy} texts are being written")

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, end, one.name)
    serving = asyncio.create_task(server._serve([listener]))
    watching = asyncio.create_task(_watch(server, service, address))
    await serving
    watching.cancel()
    return 1 if service.scheduler.failure else 0


async def _watch(server: uvicorn.Server, service: Service, address: str) -> None:
    """Say when the model is ready; end the server when it has failed: whoever started it starts it again."""
    while not service.ready and not service.scheduler.failure:
        await asyncio.sleep(0.05)
    if service.ready:
        _announce(address)
    while not service.scheduler.failure:
        await asyncio.sleep(0.5)
    server.should_exit = True
    say(f"gpt2jax: the server has failed: {service.scheduler.failure!r}")


def _announce(address: str) -> None:
    say(
        f"ready. Try it in a browser, {address}/, or\n"
        f"curl {address}/score -H 'content-type: application/json' "
        """-d '{"input_data": ["Once upon a time, far far away,"], "params": {"max_new_tokens": 50}}'"""
    )


def read_keys(path: str | None) -> tuple[str, ...]:
    """Of a file, a key a line, and of the environment, separated by commas.

    Raises:
        GPT2JaxError: the file is not there, or has no key.
    """
    keys = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GPT2JaxError(f"serving.api_keys: {path}: cannot be read: {error}") from None
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise GPT2JaxError(f"serving.api_keys: {path}: has no key; a key a line is needed")
        keys += found
    return tuple(keys)


def _listen(serving: ServingConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: drops what is left of an answer that was given up, or is complete.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(serving.stall_timeout * 2000))
    try:
        listener.bind((serving.host, serving.port))
    except OSError as error:
        listener.close()
        raise GPT2JaxError(f"serving.port: {serving.host}:{serving.port}: {error.strerror}") from None
    listener.set_inheritable(True)
    return listener
