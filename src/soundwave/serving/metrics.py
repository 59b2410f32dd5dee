"""What is counted, for Prometheus: how much waits and runs, what was done, and how long it took."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100)
REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The counters of one server.

    Args:
        waiting, running: asked whenever the metrics are read.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]):
        self.registry = CollectorRegistry()

        def gauge(name: str, told: str, value: Callable[[], float] | None = None) -> Gauge:
            made = Gauge(f"soundwave_{name}", told, registry=self.registry)
            if value is not None:
                made.set_function(value)
            return made

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"soundwave_{name}", told, labels, registry=self.registry)

        gauge("requests_waiting", "Requests in the queue.", waiting)
        gauge("requests_running", "Requests that are computed.", running)
        self.open = gauge("requests_open", "Requests that are received, wait or run.")
        self.answers = gauge("answers_running", "Answers that are written, by a decoder that can in one batch.")
        self.live = gauge("live_sessions", "Live sessions.")
        self.requests = counter("requests", "Requests by address and status.", "path", "status")
        self.audio_seconds = counter("audio_seconds", "Seconds of sound that were taken in.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens read, those of audio included.")
        self.completion_tokens = counter("completion_tokens", "Tokens written.")
        self.cancelled = counter("requests_cancelled", "Requests stopped before their end.", "reason")
        self.first_token = Histogram(
            "soundwave_time_to_first_token_seconds", "From a request's whole body to its first words.",
            buckets=FIRST_TOKEN_SECONDS, registry=self.registry,
        )
        self.queued = Histogram(
            "soundwave_queue_seconds", "Waited for a turn.", buckets=REQUEST_SECONDS, registry=self.registry
        )
        self.seconds = Histogram(
            "soundwave_request_seconds", "From the head of a request to the end of its answer.", ("path",),
            buckets=REQUEST_SECONDS, registry=self.registry,
        )

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
