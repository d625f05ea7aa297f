"""A web server of our own that misbehaves in every way that a real one has."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves bytes by path; ``faults`` are taken one by one, a request each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        body = self.server.files.get(self.path.removeprefix("/cdn"))
        if body is None or fault.isdecimal():
            self.send_error(int(fault or 404))
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if fault in ("redirect", "REDIRECT"):
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/cdn{self.path}")
            name = "X-Linked-Etag" if fault == "redirect" else "X-LINKED-ETAG"
            self.send_header(name, f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            return
        if fault in ("page", "hidden page"):
            body = b"<!DOCTYPE html><html><body>Please log in.</body></html>"
        if fault == "other bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":  # A whole answer, of a file that is too small.
            body = body[:-1]
        start = 0
        if asked and fault != "whole again" and self.headers.get("If-Range") == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            place = start + 1 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {place}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "text/html" if fault == "page" else "application/octet-stream")
        if fault != "no length":
            self.send_header("Content-Length", "many" if fault == "odd length" else str(len(body) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        if fault == "cut":  # The connection ends in the middle.
            body = body[: start + (len(body) - start) // 2]
        self.wfile.write(body[start:])


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
