"""What Prometheus is told."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("gpt2jax_requests", "Answered.", ("path", "status"), registry=own)
        self._tokens = Counter("gpt2jax_tokens", "Tokens that were drawn.", registry=own)
        self._waiting = Gauge("gpt2jax_waiting", "Texts that wait for a slot.", registry=own)
        self._first = Histogram(
            "gpt2jax_first_token_seconds", "From a request to its text's first token.", buckets=_SECONDS, registry=own
        )
        self._next = Histogram("gpt2jax_token_seconds", "From a token to the next.", buckets=_SECONDS, registry=own)
        self._occupancy = Gauge("gpt2jax_occupancy", "Share of slots that the newest step wrote in.", registry=own)

    def request(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def waiting(self, texts: int) -> None:
        self._waiting.set(texts)

    def step(self, writing: int, slots: int) -> None:
        self._occupancy.set(writing / slots)

    def token(self, seconds: float, *, first: bool) -> None:
        """One token that came ``seconds`` after the one before it, or after the request."""
        (self._first if first else self._next).observe(seconds)
        self._tokens.inc()

    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry).decode()
